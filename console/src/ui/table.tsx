// One table for all lists: sorted, walked with the arrow keys, and drawn only where it is seen.
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { go } from "../router";
import { rowsThatFit, width } from "../state";

export interface Column<R> {
  id: string;
  title: string;
  cell: (row: R) => ComponentChildren;
  /** What rows are sorted by; without it the column cannot be sorted. */
  by?: (row: R) => string | number;
  /** A grid track, e.g. `2fr` or `7rem`. */
  size?: string;
  end?: boolean;
  /** From which width on it is shown; always when missing. */
  from?: "mid" | "wide";
}

const ROW = 34;
const EXTRA = 12;
const RANK = { narrow: 0, mid: 1, wide: 2 };

interface Props<R> {
  label: string;
  rows: readonly R[];
  columns: Column<R>[];
  keyOf: (row: R) => string;
  hrefOf?: (row: R) => string;
  onOpen?: (row: R) => void;
  empty: ComponentChildren;
  /** How many there are when `rows` are the first of them. */
  total?: number;
  sort?: string;
  /** The most that is seen at once, in rows. */
  seen?: number;
  more?: () => void;
}

export function Table<R>({ label, rows, columns, keyOf, hrefOf, onOpen, empty, total, sort, seen = rowsThatFit.value, more }: Props<R>) {
  const [order, setOrder] = useState<{ id: string; down: boolean } | null>(sort ? { id: sort, down: false } : null);
  const [top, setTop] = useState(0);
  const [active, setActive] = useState(0);
  const scroller = useRef<HTMLDivElement>(null);
  const wantsFocus = useRef(false);
  const visible = columns.filter((one) => !one.from || RANK[width.value] >= RANK[one.from]);
  const sorted = useMemo(() => inOrder(rows, columns.find((one) => one.id === order?.id)?.by, order?.down ?? false), [rows, order]);
  const isOpenable = Boolean(hrefOf ?? onOpen);
  const high = Math.min(sorted.length, seen) * ROW;
  const first = Math.max(0, Math.floor(top / ROW) - EXTRA);
  const last = Math.min(sorted.length, Math.ceil((top + high) / ROW) + EXTRA);
  const template = visible.map((one) => (/^[\d.]+fr$/.test(one.size ?? "1fr") ? `minmax(0, ${one.size ?? "1fr"})` : one.size)).join(" ");

  useLayoutEffect(() => {
    if (!wantsFocus.current) return;
    const target = scroller.current?.querySelector<HTMLElement>(`[data-at="${active}"]`);
    if (target) {
      wantsFocus.current = false;
      target.focus({ preventScroll: true });
    }
  });

  const jump = (to: number) => {
    const next = Math.max(0, Math.min(sorted.length - 1, to));
    const box = scroller.current;
    if (!box) return;
    if (next * ROW < box.scrollTop) box.scrollTop = next * ROW;
    else if ((next + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (next + 1) * ROW - box.clientHeight;
    wantsFocus.current = true;
    setTop(box.scrollTop);
    setActive(next);
  };
  const page = Math.max(1, Math.floor(high / ROW) - 1);
  const onKey = (event: KeyboardEvent) => {
    if (!(event.target as HTMLElement).hasAttribute?.("data-at")) return;
    const at = active;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: sorted.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    jump(to);
  };
  const onScroll = () => {
    const box = scroller.current!;
    setTop(box.scrollTop);
    if (more && box.scrollTop + box.clientHeight > box.scrollHeight - 8 * ROW) more();
  };
  const pick = (row: R, event: MouseEvent) => {
    if ((event.target as Element).closest("a,button,input,select,label") || String(getSelection() ?? "")) return;
    if (onOpen) onOpen(row);
    else if (hrefOf) go(hrefOf(row));
  };
  const open = (row: R, at: number, content: ComponentChildren) => {
    const common = { "data-at": at, tabIndex: at === active ? 0 : -1, onFocus: () => setActive(at) };
    if (hrefOf) return <a href={hrefOf(row)} class="row-link" {...common}>{content}</a>;
    if (onOpen) return <button type="button" class="row-link" onClick={() => onOpen(row)} {...common}>{content}</button>;
    return content;
  };

  return (
    <div class="table" role="table" aria-label={label} aria-rowcount={(total ?? sorted.length) + 1} onKeyDown={onKey}>
      <div role="rowgroup">
        <div class="row head" role="row" aria-rowindex={1} style={{ gridTemplateColumns: template }}>
          {visible.map((one) => {
            const is = order?.id === one.id;
            return (
              <div key={one.id} role="columnheader" class={one.end ? "cell end" : "cell"} aria-sort={is ? (order.down ? "descending" : "ascending") : undefined}>
                {one.by ? (
                  <button type="button" class={is ? (order.down ? "sort down" : "sort up") : "sort"} onClick={() => setOrder({ id: one.id, down: is && !order.down })}>
                    {one.title}
                  </button>
                ) : (
                  one.title
                )}
              </div>
            );
          })}
        </div>
      </div>
      {sorted.length === 0 ? (
        <div role="rowgroup">
          <div role="row" class="none">
            <div role="cell">{empty}</div>
          </div>
        </div>
      ) : (
        <div class="scroller" role="rowgroup" ref={scroller} style={{ height: `${high}px` }} onScroll={onScroll} tabIndex={isOpenable ? undefined : 0} aria-label={isOpenable ? undefined : label}>
          <div class="canvas" role="presentation" style={{ height: `${sorted.length * ROW}px` }}>
            {sorted.slice(first, last).map((row, offset) => {
              const at = first + offset;
              return (
                <div key={keyOf(row)} role="row" aria-rowindex={at + 2} class={isOpenable ? "row open" : "row"} style={{ gridTemplateColumns: template, transform: `translateY(${at * ROW}px)` }} onClick={(event) => pick(row, event)}>
                  {visible.map((one, column) => (
                    <div key={one.id} role="cell" class={one.end ? "cell end" : "cell"}>
                      {column === 0 ? open(row, at, one.cell(row)) : one.cell(row)}
                    </div>
                  ))}
                </div>
              );
            })}
          </div>
        </div>
      )}
    </div>
  );
}

const NATURAL = new Intl.Collator("en", { numeric: true });

function inOrder<R>(rows: readonly R[], by: ((row: R) => string | number) | undefined, down: boolean): readonly R[] {
  if (!by) return rows;
  const sign = down ? -1 : 1;
  const keyed = rows.map((row) => [by(row), row] as const);
  keyed.sort(([a], [b]) => sign * (typeof a === "number" && typeof b === "number" ? a - b : NATURAL.compare(String(a), String(b))));
  return keyed.map(([, row]) => row);
}
