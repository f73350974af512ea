// Sending a command and following it: the answer here, its way beside it.
import { useState } from "preact/hooks";
import { get, query } from "../api";
import { useLoad, useSettled, useTitle } from "../hooks";
import { href, params, setParams } from "../router";
import { quoted } from "../rql";
import { isOperator, parts } from "../state";
import { shown } from "../text";
import { Card, Empty, Failure, Field, Head, StreamMark } from "../ui/parts";
import { Table } from "../ui/table";
import { MessageForm } from "./message";
import { type Message, MESSAGE_COLUMNS, MessageView, useTail } from "./tail";

interface Suggested {
  items: { thingId: string; features?: Record<string, unknown> }[];
}

export function Commands() {
  useTitle("Commands");
  const thing = params.value.get("thing") ?? "";
  const word = useSettled(thing, 300);
  const found = useLoad((aborted) => get<Suggested>(`/api/2/search/things${query({ filter: word && `ilike(thingId,${quoted(`*${word}*`)})`, fields: "thingId,features/*/definition", option: "size(25)" })}`, aborted), [word]);
  const exact = found.data?.items.find((one) => one.thingId === thing);
  return (
    <>
      <Head title="Commands" />
      <div class="row-form">
        <Field label="Thing" hint={thing && found.data && !exact ? "There is no such thing that you may see." : "The device that the thing stands for gets the command."}>
          {(id, described) => (
            <>
              <input id={id} aria-describedby={described} data-search class="mono" list="command-things" value={thing} placeholder="org.acme:4711" onInput={(event) => setParams({ thing: event.currentTarget.value })} autocomplete="off" spellcheck={false} />
              <datalist id="command-things">{(found.data?.items ?? []).map((one) => <option key={one.thingId} value={one.thingId} />)}</datalist>
            </>
          )}
        </Field>
        {exact && <span><a href={href("things", thing)}>Open the thing</a></span>}
      </div>
      <MessageForm thingId={/^[^:]*:./.test(thing) ? thing : ""} features={Object.keys(exact?.features ?? {})} />
      {isOperator.value && parts.value["tail"] && <OnTheWay />}
    </>
  );
}

/** What goes over the tenant's command and response endpoints meanwhile. */
function OnTheWay() {
  const tenants = useLoad((aborted) => get<{ items: { id: string }[] }>("tenants", aborted), []);
  const tenant = params.value.get("tenant") ?? tenants.data?.items[0]?.id ?? "";
  const tail = useTail(tenant ? `tail${query({ tenant, kind: "command,response", max_rate: 50, max_bytes: 8192 })}` : null, false);
  const [open, setOpen] = useState<Message | null>(null);
  return (
    <Card title="On the way" wide actions={<StreamMark of={tail.stream.state} />}>
      <div class="row-form">
        <Field label="Tenant">
          {(id) => (
            <select id={id} value={tenant} onChange={(event) => setParams({ tenant: event.currentTarget.value })}>
              {(tenants.data?.items ?? []).map((one) => <option key={one.id} value={one.id}>{shown(one.id, 80)}</option>)}
            </select>
          )}
        </Field>
      </div>
      {tail.stream.error ? <Failure error={tail.stream.error} /> : <Table label="Commands and responses" rows={tail.messages} columns={MESSAGE_COLUMNS} keyOf={(row) => String(row.nth)} onOpen={setOpen} seen={8} empty={<Empty title="No command or response came yet" />} />}
      {open && <MessageView of={open} onClose={() => setOpen(null)} />}
    </Card>
  );
}
