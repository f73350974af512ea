// One thing, live.
import { useRef, useState } from "preact/hooks";
import { get, query, seg } from "../../api";
import { useLoad, useStream, useTitle } from "../../hooks";
import { href } from "../../router";
import { pretty, shown } from "../../text";
import { applied, changedPaths, type Thing, type ThingEvent } from "../../twin";
import { MessageForm } from "../message";
import { Copy, Empty, Facts, Head, Shown, StreamMark, Tabs, Text, When } from "../../ui/parts";
import { Attributes, Features } from "./parts";
import { History } from "./history";
import { PolicyView } from "./policy";

const FIELDS = "thingId,policyId,definition,attributes,features,_revision,_modified,_created";
const KEPT = 400;

export interface Sample {
  at: number;
  event: ThingEvent;
}

export function ThingPage({ id }: { id: string }) {
  useTitle(shown(id, 60));
  const address = `/api/2/things/${seg(id)}`;
  const thing = useLoad((aborted) => get<Thing>(`${address}${query({ fields: FIELDS })}`, aborted), [id]);
  const [isGone, setGone] = useState(false);
  const [lit, setLit] = useState<Map<string, number>>(new Map());
  const samples = useRef<Sample[]>([]);
  const [, setRound] = useState(0);
  const stream = useStream(
    `${address}${query({ fields: `${FIELDS},_context` })}`,
    (message) => {
      const event = JSON.parse(message.data) as ThingEvent;
      samples.current = [...samples.current.slice(1 - KEPT), { at: Date.now(), event }];
      thing.set((before) => {
        if (!before) return before;
        const next = applied(before, event);
        setGone(next === null);
        return next ?? before;
      });
      const stamp = Date.now();
      setLit((before) => new Map([...[...before].slice(-300), ...changedPaths(event).map((path): [string, number] => [path, stamp])]));
      setRound((n) => n + 1);
    },
    thing.reload,
  );
  return (
    <>
      <Head kind="Thing" title={<Text of={id} max={160} />} extra={<StreamMark of={stream.state} />}>
        {thing.data && <Copy label="JSON" text={() => JSON.stringify(thing.data, null, 2)} />}
        <Copy label="curl" text={`curl -u USER:PASSWORD '${location.origin}${address}'`} />
      </Head>
      {isGone && <p class="offline" role="alert">This thing was deleted. What you see is its last state.</p>}
      <Shown of={thing}>
        {(data) => (
          <>
            <Facts
              of={[
                ["Definition", data.definition && <Text of={data.definition} />],
                ["Policy", data.policyId && <Text of={data.policyId} />],
                ["Revision", data._revision],
                ["Changed", <When at={data._modified} both />],
                ["Created", <When at={data._created} />],
              ]}
            />
            <Tabs
              label="Parts of the thing"
              of={[
                { id: "features", title: "Features", body: () => <Features thing={data} lit={lit} /> },
                { id: "attributes", title: "Attributes", body: () => <Attributes thing={data} lit={lit} /> },
                { id: "history", title: "History", body: () => <History id={id} live={samples.current} /> },
                { id: "policy", title: "Policy", body: () => (data.policyId ? <PolicyView thingId={id} policyId={data.policyId} /> : <Empty title="You may not see which policy it has" />) },
                { id: "message", title: "Message", body: () => <MessageForm thingId={id} features={Object.keys(data.features ?? {})} /> },
                { id: "json", title: "JSON", body: () => <pre class="code" tabIndex={0}>{pretty(data)}</pre> },
              ]}
            />
            <p class="small">
              <a href={href("things")}>All things</a>
            </p>
          </>
        )}
      </Shown>
    </>
  );
}
