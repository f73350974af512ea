// Tenants, devices and credentials of the registry.
import { useEffect, useState } from "preact/hooks";
import { call, get, type JsonObject, query, seg } from "../api";
import { useLoad, useSettled, useTitle } from "../hooks";
import { go, href, params, setParams } from "../router";
import { tell } from "../state";
import { inline, shown } from "../text";
import { Confirm } from "../ui/dialog";
import { Card, Copy, Empty, Head, Search, Shown, State, Text, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";
import { EditDocument } from "./document";

const V1 = "registry/v1/";
const PAGE = 200;

interface Entry extends JsonObject {
  id: string;
}

interface Found {
  total: number;
  result: Entry[];
}

const Enabled = ({ of }: { of: JsonObject }) => (of["enabled"] === false ? <State tone="idle">disabled</State> : <State tone="ok">enabled</State>);

const without = (entry: JsonObject, ...names: string[]): JsonObject => Object.fromEntries(Object.entries(entry).filter(([name]) => !names.includes(name)));

const COLUMNS: Column<Entry>[] = [
  { id: "id", title: "Id", cell: (row) => <Text of={row.id} max={100} />, by: (row) => row.id, size: "2fr" },
  { id: "enabled", title: "State", cell: (row) => <Enabled of={row} />, by: (row) => String(row["enabled"]), size: "7rem" },
  { id: "rest", title: "Settings", cell: (row) => <span class="muted mono small">{inline(without(row, "id", "enabled", "status"), 160).replace(/^\{\}$/, "")}</span>, size: "3fr", from: "mid" },
];

/** A search over a collection: the id, in pages that are read on demand. */
function useEntries(path: string, word: string) {
  const [pages, setPages] = useState(1);
  useEffect(() => setPages(1), [path, word]);
  const filter = word ? JSON.stringify({ field: path === "tenants" ? "/id" : "/id", op: "eq", value: `*${word}*` }) : undefined;
  const list = useLoad(async (aborted) => {
    const found: Found = { total: 0, result: [] };
    for (let at = 0; at < pages; at += 1) {
      const page = (await call<Found>(`${V1}${path}${query({ pageSize: PAGE, pageOffset: at, filterJson: filter })}`, { signal: aborted }).catch(noneFound)).data;
      found.total = page.total;
      found.result = [...found.result, ...page.result];
    }
    return found;
  }, [path, word, pages]);
  const more = () => list.data && list.data.result.length < list.data.total && !list.loading && setPages(pages + 1);
  return { list, more };
}

/** Where nothing fits the registry says 404. */
function noneFound(error: unknown): { data: Found } {
  if ((error as { status?: number }).status === 404) return { data: { total: 0, result: [] } };
  throw error;
}

export function Registry() {
  useTitle("Registry");
  const word = useSettled(params.value.get("q") ?? "");
  const { list, more } = useEntries("tenants", word);
  const [isNew, setNew] = useState(false);
  return (
    <>
      <Head title="Tenants" extra={list.data && <p class="muted count" role="status">{list.data.total}</p>}>
        <button type="button" class="primary" onClick={() => setNew(true)}>New tenant</button>
      </Head>
      <div class="filters"><Search label="Search tenants" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} /></div>
      <Shown of={list} lines={6}>{(data) => <Table label="Tenants" rows={data.result} columns={COLUMNS} keyOf={(row) => row.id} hrefOf={(row) => href("registry", row.id)} total={data.total} more={more} empty={<Empty title={word ? "No tenant fits" : "No tenants yet"} />} />}</Shown>
      {isNew && <EditDocument title="New tenant" ask="Tenant id" onClose={() => setNew(false)} address={(id) => `${V1}tenants/${seg(id)}`} create start={{ enabled: true }} onDone={(id) => go(href("registry", id))} />}
    </>
  );
}

export function TenantPage({ tenant }: { tenant: string }) {
  useTitle(shown(tenant, 60));
  const path = `${V1}tenants/${seg(tenant)}`;
  const found = useLoad((aborted) => get<JsonObject>(path, aborted), [path]);
  const word = useSettled(params.value.get("q") ?? "");
  const { list, more } = useEntries(`devices/${seg(tenant)}`, word);
  const [open, setOpen] = useState<"" | "edit" | "delete" | "new">("");
  const close = () => setOpen("");
  const remove = async () => {
    await call(path, { method: "DELETE" });
    tell(`Tenant ${tenant.slice(0, 60)} deleted`);
    go(href("registry"));
  };
  return (
    <>
      <Head kind="Tenant" title={<Text of={tenant} max={100} />} extra={found.data && <Enabled of={found.data} />}>
        <button type="button" onClick={() => setOpen("edit")}>Edit</button>
        {found.data && <Copy label="JSON" text={() => JSON.stringify(found.data, null, 2)} />}
        <button type="button" class="danger" onClick={() => setOpen("delete")}>Delete …</button>
      </Head>
      <Shown of={found}>{(data) => <details><summary>Settings</summary><pre class="code" tabIndex={0}>{shown(JSON.stringify(data, null, 2), 20_000, true)}</pre></details>}</Shown>
      <div class="filters">
        <Search label="Search devices of the tenant" value={params.value.get("q") ?? ""} onInput={(q) => setParams({ q })} />
        <span class="grow" />
        <button type="button" class="primary" onClick={() => setOpen("new")}>New device</button>
      </div>
      <Shown of={list} lines={6}>{(data) => <Table label="Devices of the tenant" rows={data.result} columns={COLUMNS} keyOf={(row) => row.id} hrefOf={(row) => href("registry", tenant, row.id)} total={data.total} more={more} empty={<Empty title={word ? "No device fits" : "The tenant has no devices"} />} />}</Shown>
      {open === "edit" && <EditDocument title={`Tenant ${shown(tenant, 60)}`} address={() => path} onClose={close} onDone={found.reload} />}
      {open === "new" && <EditDocument title="New device" ask="Device id" create address={(id) => `${V1}devices/${seg(tenant)}/${seg(id)}`} start={{ enabled: true }} onClose={close} onDone={(id) => go(href("registry", tenant, id))} />}
      {open === "delete" && <Confirm title="Delete the tenant" verb="Delete" word={tenant} onDo={remove} onClose={close}>Its devices can no longer connect.</Confirm>}
    </>
  );
}

interface Credential extends JsonObject {
  type: string;
  "auth-id": string;
  secrets: JsonObject[];
}

export function RegistryDevice({ tenant, device }: { tenant: string; device: string }) {
  useTitle(shown(device, 60));
  const path = `${V1}devices/${seg(tenant)}/${seg(device)}`;
  const secretsPath = `${V1}credentials/${seg(tenant)}/${seg(device)}`;
  const found = useLoad((aborted) => get<JsonObject>(path, aborted), [path]);
  const credentials = useLoad((aborted) => get<Credential[]>(secretsPath, aborted), [secretsPath]);
  const [open, setOpen] = useState<"" | "edit" | "delete" | "credentials">("");
  const close = () => setOpen("");
  const remove = async () => {
    await call(path, { method: "DELETE" });
    tell(`Device ${device.slice(0, 60)} deleted`);
    go(href("registry", tenant));
  };
  return (
    <>
      <Head kind="Device of the registry" title={<Text of={device} max={100} />} extra={found.data && <Enabled of={found.data} />}>
        <button type="button" onClick={() => setOpen("edit")}>Edit</button>
        {found.data && <Copy label="JSON" text={() => JSON.stringify(found.data, null, 2)} />}
        <button type="button" class="danger" onClick={() => setOpen("delete")}>Delete …</button>
      </Head>
      <p>Tenant <a href={href("registry", tenant)}><Text of={tenant} max={80} /></a></p>
      <div class="cards">
        <Card title="Settings"><Shown of={found}>{(data) => <pre class="code" tabIndex={0}>{shown(JSON.stringify(data, null, 2), 20_000, true)}</pre>}</Shown></Card>
        <Card title="Credentials" actions={<button type="button" onClick={() => setOpen("credentials")}>Edit</button>}>
          <Shown of={credentials}>
            {(data) =>
              data.length === 0 ? <Empty title="No credentials: the device cannot log in" /> : (
                <div class="values-box">
                  <table class="values" aria-label="Credentials">
                    <thead><tr><th scope="col">Name</th><th scope="col">Type</th><th scope="col">State</th><th scope="col">Secrets</th></tr></thead>
                    <tbody>
                      {data.map((one) => (
                        <tr key={`${one.type} ${one["auth-id"]}`}>
                          <th scope="row"><Text of={one["auth-id"]} max={80} mono /></th>
                          <td class="word"><Text of={one.type} max={40} /></td>
                          <td><Enabled of={one} /></td>
                          <td>{(one.secrets ?? []).map((secret, nth) => <div key={nth} class="small">{secret["enabled"] === false ? "disabled" : "in use"}{secret["not-after"] ? <>, ends <When at={secret["not-after"]} /></> : null}</div>)}</td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
              )
            }
          </Shown>
        </Card>
      </div>
      {open === "edit" && <EditDocument title={`Device ${shown(device, 60)}`} address={() => path} drop={["status"]} onClose={close} onDone={found.reload} />}
      {open === "credentials" && <EditDocument title={`Credentials of ${shown(device, 60)}`} address={() => secretsPath} hint='Secrets that are there are named by their id alone. A new password: {"pwd-plain": "..."}.' onClose={close} onDone={credentials.reload} />}
      {open === "delete" && <Confirm title="Delete the device" verb="Delete" word={device} onDo={remove} onClose={close}>It can no longer connect; its credentials go with it.</Confirm>}
    </>
  );
}
