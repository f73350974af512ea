import { PAGES } from "./pages";
import { Dialog } from "./ui/dialog";

const KEYS: [string, string][] = [
  ["/", "to the search field of the view"],
  ["?", "this list"],
  ["↑ ↓  PgUp PgDn  Home End", "in a list, from row to row"],
  ["Enter", "open the row"],
  ["← →", "from tab to tab"],
  ["Esc", "close a dialog"],
];

export const Help = ({ onClose }: { onClose: () => void }) => (
  <Dialog title="Keys" onClose={onClose}>
    <div class="dialog-body">
      <dl class="keys">
        {[...KEYS, ...PAGES.map((one): [string, string] => [`g ${one.key}`, one.title])].map(([key, what]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </div>
  </Dialog>
);
