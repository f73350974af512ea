// Search of things: words, a builder for simple cases, or RQL as it is.
import { useEffect, useMemo, useState } from "preact/hooks";
import { type ApiError, get, type JsonObject, query } from "../api";
import { useLoad, useSettled, useTitle } from "../hooks";
import { href, params, setParams } from "../router";
import { type Clause, OPERATORS, positionIn, quoted, rqlOf } from "../rql";
import { Copy, Empty, Failure, Head, Loading, Search, Text, When } from "../ui/parts";
import { type Column, Table } from "../ui/table";

interface Found {
  thingId: string;
  definition?: string | null;
  policyId?: string;
  attributes?: JsonObject;
  features?: Record<string, unknown>;
  _revision?: number;
  _modified?: string;
}

interface Page {
  items: Found[];
  cursor?: string;
}

const FIELDS = "thingId,policyId,definition,attributes,features/*/definition,_revision,_modified";

const COLUMNS: Column<Found>[] = [
  { id: "id", title: "Thing", cell: (row) => <Text of={row.thingId} max={120} />, by: (row) => row.thingId, size: "3fr" },
  { id: "definition", title: "Definition", cell: (row) => <Text of={row.definition ?? ""} max={80} />, by: (row) => row.definition ?? "", size: "2fr", from: "wide" },
  { id: "attributes", title: "Attributes", cell: (row) => <span class="muted mono small"><Text of={row.attributes ?? {}} max={100} /></span>, size: "3fr", from: "mid" },
  { id: "revision", title: "Revision", cell: (row) => row._revision ?? "", by: (row) => row._revision ?? 0, size: "6rem", end: true, from: "mid" },
  { id: "modified", title: "Changed", cell: (row) => <When at={row._modified} />, by: (row) => row._modified ?? "", size: "7.5rem", end: true },
];

/** Words are looked for in the id; what looks like RQL is RQL. */
export function filterOf(text: string): string {
  const typed = text.trim();
  if (!typed || /^[a-z]+\(/.test(typed)) return typed;
  return `ilike(thingId,${quoted(`*${typed}*`)})`;
}

export function Things() {
  useTitle("Things");
  const typed = params.value.get("q") ?? "";
  const filter = useSettled(filterOf(typed), 300);
  const [isBuilding, setBuilding] = useState(false);
  const { pages, error, loading, more, total, reload } = useSearch(filter);
  const items = useMemo(() => pages.flatMap((one) => one.items), [pages]);
  const isBad = error?.code.startsWith("rql.") ?? false;
  return (
    <>
      <Head title="Things" extra={total !== null && <p class="muted count" role="status">{total.toLocaleString("en")} found</p>}>
        <button type="button" aria-pressed={isBuilding} onClick={() => setBuilding(!isBuilding)}>
          Query builder
        </button>
        <Copy label="curl" text={() => `curl -u USER:PASSWORD '${location.origin}/api/2/search/things${query({ filter })}'`} />
      </Head>
      <Search label="Search things: words of the id, or RQL" placeholder="Words of the id, or RQL: gt(attributes/floor,3)" value={typed} onInput={(q) => setParams({ q })} />
      {isBad && error && <Wrong error={error} filter={filter} />}
      {isBuilding && <Builder onUse={(q) => setParams({ q })} />}
      {error && !isBad ? (
        <Failure error={error} again={reload} />
      ) : loading && items.length === 0 ? (
        <Loading lines={8} />
      ) : (
        !isBad && (
          <Table label="Things" rows={items} columns={COLUMNS} keyOf={(row) => row.thingId} hrefOf={(row) => href("things", row.thingId)} total={total ?? undefined} more={more} seen={22} empty={<Empty title={filter ? "No thing fits" : "There are no things you may see"}>{filter ? "Change the search, or see whether your user may read them." : "Create one over the API, or let a device's connection make it."}</Empty>} />
        )
      )}
    </>
  );
}

function useSearch(filter: string) {
  const [pages, setPages] = useState<Page[]>([]);
  const [isMore, setMore] = useState(false);
  const first = useLoad((aborted) => get<Page>(`/api/2/search/things${query({ filter, fields: FIELDS, option: "size(100),sort(+thingId)" })}`, aborted), [filter], 10_000);
  const counted = useLoad((aborted) => get<number>(`/api/2/search/things/count${query({ filter })}`, aborted), [filter], 10_000);
  useEffect(() => {
    if (first.data) setPages((before) => [first.data!, ...before.slice(1)]);
  }, [first.data]);
  useEffect(() => setPages([]), [filter]);
  const more = () => {
    const cursor = pages.at(-1)?.cursor;
    if (!cursor || isMore) return;
    setMore(true);
    get<Page>(`/api/2/search/things${query({ filter, fields: FIELDS, option: `size(100),cursor(${cursor})` })}`)
      .then((page) => setPages((before) => [...before, page]))
      .catch(() => undefined)
      .finally(() => setMore(false));
  };
  return { pages: first.data ? pages : [], error: first.error, loading: first.loading, more, total: counted.data ?? null, reload: first.reload };
}

/** The expression with a mark at the place that is wrong. */
function Wrong({ error, filter }: { error: ApiError; filter: string }) {
  const at = positionIn(error.message);
  return (
    <div class="failure" role="alert">
      <p>
        <Text of={error.message} max={600} />
      </p>
      {at !== null && (
        <p class="mono wrong" aria-hidden="true">
          <bdi>{filter.slice(Math.max(0, at - 60), at)}</bdi>
          <mark>{filter.slice(at, at + 1) || "\u2423"}</mark>
          <bdi>{filter.slice(at + 1, at + 60)}</bdi>
        </p>
      )}
    </div>
  );
}

const BLANK: Clause = { field: "", op: "eq", value: "" };

function Builder({ onUse }: { onUse: (rql: string) => void }) {
  const [clauses, setClauses] = useState<Clause[]>([{ ...BLANK, field: "attributes/" }]);
  const change = (at: number, part: Partial<Clause>) => setClauses(clauses.map((one, nth) => (nth === at ? { ...one, ...part } : one)));
  const text = rqlOf(clauses);
  return (
    <fieldset class="builder">
      <legend>All of these hold</legend>
      {clauses.map((one, at) => (
        <div class="clause" key={at}>
          <input aria-label={`Field ${at + 1}`} placeholder="features/temp/properties/value" class="mono" value={one.field} onInput={(event) => change(at, { field: event.currentTarget.value })} list="rql-fields" />
          <select aria-label={`Comparison ${at + 1}`} value={one.op} onChange={(event) => change(at, { op: event.currentTarget.value })}>
            {OPERATORS.map(([op, word]) => (
              <option key={op} value={op}>
                {word}
              </option>
            ))}
          </select>
          <input aria-label={`Value ${at + 1}`} placeholder="value" disabled={one.op === "exists"} value={one.value} onInput={(event) => change(at, { value: event.currentTarget.value })} />
          <button type="button" class="quiet" aria-label={`Remove condition ${at + 1}`} onClick={() => setClauses(clauses.filter((_, nth) => nth !== at))}>
            Remove
          </button>
        </div>
      ))}
      <datalist id="rql-fields">
        {["thingId", "definition", "policyId", "attributes/", "features/", "_modified", "_revision"].map((one) => (
          <option key={one} value={one} />
        ))}
      </datalist>
      <div class="actions">
        <button type="button" onClick={() => setClauses([...clauses, BLANK])}>
          Add a condition
        </button>
        <button type="button" class="primary" disabled={!text} onClick={() => onUse(text)}>
          Search
        </button>
        <code class="mono small">{text}</code>
      </div>
    </fieldset>
  );
}
