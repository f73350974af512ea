// The HTTP client: every handle, every method.
'use strict';
const assert = require('node:assert');
const { test, run } = require('./runner');
const { ditto, NAMESPACE, basic, http, socket, inbox, newId, thing, aThing } = require('./rig');

const { DefaultFieldsOptions, DefaultMatchOptions, DefaultMessagesOptions, DefaultSearchOptions, DefaultCountOptions } = ditto;

/** What a promise is rejected with. */
async function refusal(promise) {
  const error = await promise.then(
    () => assert.fail('was not refused'),
    (reason) => reason,
  );
  return error;
}

test('a thing is created, read, replaced, patched and deleted', async () => {
  const things = http().getThingsHandle();
  const id = newId('life');
  const created = await things.putThing(thing(id, { attributes: { colour: 'red' }, features: { lamp: { properties: { on: false } } } }));
  assert.equal(created.status, 201);
  assert.equal(created.body.thingId, id);
  assert.equal(created.body.policyId, id);
  assert.equal(created.headers.get('etag'), '"rev:1"');
  assert.match(created.headers.get('location'), new RegExp(`/api/2/things/${id}$`));
  const read = await things.getThing(id);
  assert.deepEqual(read.attributes, { colour: 'red' });
  assert.deepEqual(read.features.lamp.properties, { on: false });
  assert.equal(read._revision, undefined);
  const replaced = await things.putThing(thing(id, { attributes: { colour: 'blue' } }));
  assert.equal(replaced.status, 204);
  assert.equal(replaced.body, null);
  const patched = await things.patchThing(thing(id, { attributes: { size: 3 } }));
  assert.equal(patched.status, 204);
  assert.deepEqual((await things.getThing(id)).attributes, { colour: 'blue', size: 3 });
  assert.equal((await things.deleteThing(id)).status, 204);
  assert.equal((await refusal(things.getThing(id))).body.error, 'things:thing.notfound');
});

test('hidden fields come when they are named', async () => {
  const id = await aThing('fields', { attributes: { a: 1, b: 2 } });
  const read = await http().getThingsHandle().getThing(id, DefaultFieldsOptions.getInstance()
    .withFields('thingId', 'attributes/a', '_revision', '_modified', '_created'));
  assert.deepEqual(read.attributes, { a: 1 });
  assert.equal(read._revision, 1);
  assert.ok(Date.parse(read._modified) > 0);
  assert.ok(Date.parse(read._created) > 0);
  assert.equal(read.policyId, undefined);
});

test('several things are read in the order asked for, and a thing is posted', async () => {
  const things = http().getThingsHandle();
  const [a, b] = [await aThing('many'), await aThing('many')];
  const found = await things.getThings([b, a, newId('absent')]);
  assert.deepEqual(found.map((one) => one.thingId), [b, a]);
  const posted = await things.postThing({ attributes: { made: 'by post' } });
  assert.match(posted.thingId, /^[^:]*:[0-9a-f-]{36}$/);
  assert.deepEqual(posted.attributes, { made: 'by post' });
});

test('attributes, definition and policy id have ways of their own', async () => {
  const things = http().getThingsHandle();
  const id = await aThing('parts');
  assert.equal((await things.putAttributes(id, { place: { lat: 1 } })).status, 201);
  assert.equal((await things.putAttribute(id, 'place/lon', 2)).status, 201);
  assert.equal((await things.putAttribute(id, 'place/lon', 3)).status, 204);
  assert.equal((await things.patchAttribute(id, 'place', { lat: null })).status, 204);
  assert.equal((await things.patchAttributes(id, { more: [1, 'x', null] })).status, 204);
  assert.deepEqual(await things.getAttributes(id), { place: { lon: 3 }, more: [1, 'x', null] });
  assert.equal(await things.getAttribute(id, 'place/lon'), 3);
  assert.equal((await things.deleteAttribute(id, 'place')).status, 204);
  assert.equal((await things.deleteAttributes(id)).status, 204);
  assert.equal((await refusal(things.getAttributes(id))).body.error, 'things:attributes.notfound');
  assert.equal((await things.putDefinition(id, 'acme:pump:1.0.0')).status, 201);
  assert.equal((await things.patchDefinition(id, 'acme:pump:1.0.1')).status, 204);
  assert.equal(await things.getDefinition(id), 'acme:pump:1.0.1');
  assert.equal((await things.deleteDefinition(id)).status, 204);
  assert.equal(await things.getPolicyId(id), id);
  const other = await aThing('policy');
  assert.equal((await things.putPolicyId(id, other)).status, 204);
  assert.equal((await things.patchPolicyId(id, id)).status, 204);
  assert.equal(await things.getPolicyId(id), id);
});

test('features have ways of their own', async () => {
  const id = await aThing('features');
  const features = http().getFeaturesHandle(id);
  const lamp = ditto.Feature.fromObject({ properties: { on: true } }, 'lamp');
  assert.equal((await features.putFeatures({ lamp })).status, 201);
  assert.deepEqual((await features.getFeatures()).lamp.properties, { on: true });
  assert.equal((await features.putFeature(ditto.Feature.fromObject({ properties: { rpm: 1 } }, 'motor'))).status, 201);
  assert.equal((await features.putDefinition('motor', ['acme:motor:1.0.0'])).status, 201);
  assert.equal((await features.patchDefinition('motor', ['acme:motor:1.0.1'])).status, 204);
  assert.deepEqual(await features.getDefinition('motor'), ['acme:motor:1.0.1']);
  assert.equal((await features.putProperties('motor', { rpm: 2, state: { hot: false } })).status, 204);
  assert.equal((await features.putProperty('motor', 'state/hot', true)).status, 204);
  assert.equal((await features.putProperty('motor', 'state/age', 7)).status, 201);
  assert.equal((await features.patchProperty('motor', 'rpm', 3)).status, 204);
  assert.equal((await features.patchProperties('motor', { extra: 'x' })).status, 204);
  assert.equal((await features.patchFeature(ditto.Feature.fromObject({ properties: { more: 1 } }, 'motor'))).status, 204);
  assert.equal((await features.patchFeatures({ lamp: ditto.Feature.fromObject({ properties: { on: false } }, 'lamp') })).status, 204);
  assert.deepEqual(await features.getProperties('motor'), { rpm: 3, state: { hot: true, age: 7 }, extra: 'x', more: 1 });
  assert.equal(await features.getProperty('motor', 'state/age'), 7);
  assert.deepEqual((await features.getFeature('motor')).definition, ['acme:motor:1.0.1']);
  for (const gone of [
    features.deleteProperty('motor', 'rpm'), features.deleteProperties('lamp'), features.deleteDefinition('motor'),
  ]) assert.equal((await gone).status, 204);
  assert.equal((await features.deleteFeature('motor')).status, 204);
  assert.equal((await features.deleteFeatures()).status, 204);
  assert.equal((await refusal(features.getFeatures())).body.error, 'things:features.notfound');
});

test('entity tags guard reads and writes', async () => {
  const things = http().getThingsHandle();
  const id = await aThing('tags', { attributes: { a: 1 } });
  const fresh = DefaultMatchOptions.getInstance().ifNoneMatchAny();
  const again = await refusal(things.putThing(thing(id), fresh));
  assert.equal(again.status, 412);
  assert.equal(again.body.error, 'things:precondition.failed');
  assert.equal((await things.putAttribute(id, 'a', 2, DefaultMatchOptions.getInstance().ifMatchAny())).status, 204);
  const stale = await refusal(things.putThing(thing(id), DefaultMatchOptions.getInstance().ifMatch('"rev:1"')));
  assert.equal(stale.status, 412);
  const same = await refusal(things.getThing(id, DefaultFieldsOptions.getInstance().ifNoneMatch('"rev:2"')));
  assert.equal(same.status, 304);
  assert.equal(same.headers.get('etag'), '"rev:2"');
});

test('a policy is managed down to one resource', async () => {
  const policies = http().getPoliciesHandle();
  const id = newId('policy');
  const all = ['policy:/', 'thing:/', 'message:/'].map((key) => [key, { grant: ['READ', 'WRITE'], revoke: [] }]);
  const owner = { subjects: { 'nginx:ditto': { type: 'user' } }, resources: Object.fromEntries(all) };
  const policy = ditto.Policy.fromObject({ entries: { owner } }, id);
  assert.equal((await policies.putPolicy(policy)).status, 201);
  assert.equal((await policies.putPolicy(policy)).status, 204);
  assert.deepEqual(Object.keys((await policies.getPolicy(id)).entries), ['owner']);
  const reader = ditto.Entry.fromObject(
    { subjects: { 'nginx:alice': { type: 'user' } }, resources: { 'thing:/attributes': { grant: ['READ'], revoke: [] } } }, 'reader');
  assert.equal((await policies.putEntry(id, reader)).status, 201);
  assert.deepEqual(Object.keys(await policies.getEntries(id)).sort(), ['owner', 'reader']);
  assert.deepEqual((await policies.getEntry(id, 'reader')).resources['thing:/attributes'].grant, ['READ']);
  const bob = ditto.Subject.fromObject({ type: 'user' }, 'nginx:bob');
  assert.equal((await policies.putSubject(id, 'reader', bob)).status, 201);
  assert.deepEqual(Object.keys(await policies.getSubjects(id, 'reader')).sort(), ['nginx:alice', 'nginx:bob']);
  assert.equal((await policies.getSubject(id, 'reader', 'nginx:bob')).type, 'user');
  assert.equal((await policies.deleteSubject(id, 'reader', 'nginx:bob')).status, 204);
  const secret = ditto.Resource.fromObject({ grant: [], revoke: ['READ'] }, 'thing:/attributes/secret');
  assert.equal((await policies.putResource(id, 'reader', secret)).status, 201);
  assert.deepEqual((await policies.getResource(id, 'reader', 'thing:/attributes/secret')).revoke, ['READ']);
  assert.deepEqual(Object.keys(await policies.getResources(id, 'reader')).sort(), ['thing:/attributes', 'thing:/attributes/secret']);
  assert.equal((await policies.deleteResource(id, 'reader', 'thing:/attributes/secret')).status, 204);
  const root = ditto.Resource.fromObject({ grant: ['READ'], revoke: [] }, 'thing:/');
  assert.equal((await policies.putResource(id, 'reader', root)).status, 201);
  assert.deepEqual((await policies.getResource(id, 'reader', 'thing:/')).grant, ['READ']);
  assert.equal((await policies.deleteResource(id, 'reader', 'thing:/')).status, 204);
  assert.equal((await policies.putSubjects(id, 'reader', ditto.Subjects.fromObject({ 'nginx:carol': { type: 'user' } }))).status, 204);
  const resources = ditto.Resources.fromObject({ 'thing:/features': { grant: ['READ'], revoke: [] } });
  assert.equal((await policies.putResources(id, 'reader', resources)).status, 204);
  assert.equal((await policies.putEntries(id, ditto.Entries.fromObject({ owner }))).status, 204);
  assert.equal((await refusal(policies.getEntry(id, 'reader'))).body.error, 'policies:entry.notfound');
  const locked = await refusal(policies.deleteEntry(id, 'owner'));
  assert.equal(locked.status, 403);
  assert.equal((await policies.deletePolicy(id)).status, 204);
  assert.equal((await refusal(policies.getPolicy(id))).status, 404);
});

test('search filters, sorts, pages and counts, by GET and by form', async () => {
  const mark = newId('mark').replace(/.*:/, '');
  for (const number of [3, 1, 2]) await aThing('search', { attributes: { mark, number, name: `Pump ${number}` } });
  const search = http().getSearchHandle();
  const { And, Or, Not, Eq, Ne, Gt, Ge, Lt, Le, In, Like, ILike, Exists } = ditto;
  const mine = (filter) => And(Eq('attributes/mark', mark), filter);
  const numbers = async (filter, way = 'search', more = (options) => options) => {
    const options = more(DefaultSearchOptions.getInstance().withFilter(mine(filter)).withSort('+attributes/number'));
    return (await search[way](options)).items.map((item) => item.attributes.number);
  };
  const cases = [
    [Gt('attributes/number', 1), [2, 3]], [Ge('attributes/number', 2), [2, 3]], [Lt('attributes/number', 2), [1]],
    [Le('attributes/number', 2), [1, 2]], [Ne('attributes/number', 2), [1, 3]], [In('attributes/number', 1, 3), [1, 3]],
    [Like('attributes/name', 'Pump*'), [1, 2, 3]], [ILike('attributes/name', 'pump ?'), [1, 2, 3]],
    [Exists('attributes/name'), [1, 2, 3]], [Not(Eq('attributes/number', 1)), [2, 3]],
    [Or(Eq('attributes/number', 1), Eq('attributes/number', 3)), [1, 3]],
  ];
  for (const [filter, expected] of cases) {
    assert.deepEqual(await numbers(filter), expected, filter.toString());
    assert.deepEqual(await numbers(filter, 'postSearch'), expected, filter.toString());
  }
  const any = Exists('thingId');
  const first = await search.search(DefaultSearchOptions.getInstance().withFilter(mine(any)).withSort('-attributes/number')
    .withPageSize(2).withFields('attributes/number', 'thingId').withNamespaces(NAMESPACE, 'other'));
  assert.deepEqual(first.items.map((item) => item.attributes), [{ number: 3 }, { number: 2 }]);
  const rest = await search.search(DefaultSearchOptions.getInstance().withFilter(mine(any)).withCursor(first.cursor));
  assert.equal(rest.items.length, 1);
  assert.ok(!rest.cursor);
  const skipped = await search.search(DefaultSearchOptions.getInstance().withFilter(mine(any)).withLimit(1, 1).withSort('+attributes/number'));
  assert.deepEqual(skipped.items.map((item) => item.attributes.number), [2]);
  assert.equal(skipped.nextPageOffset, 2);
  const counted = DefaultCountOptions.getInstance().withFilter(mine(Gt('attributes/number', 1)));
  assert.equal(await search.count(counted), 2);
  assert.equal(await search.postCount(counted), 2);
  const wrong = await refusal(search.search(DefaultSearchOptions.getInstance().withRawFilter('and(eq(')));
  assert.equal(wrong.body.error, 'rql.expression.invalid');
});

test('a message over HTTP is answered by a WebSocket client', async () => {
  const id = await aThing('message', { features: { lamp: {} } });
  const device = await socket({ channel: 'live' });
  try {
    const got = inbox();
    const messages = device.client.getMessagesHandle();
    await messages.requestMessages();
    messages.subscribeToThing(id, got.put);
    const handle = http().getMessagesHandle();
    const options = () => DefaultMessagesOptions.getInstance().withTimeout(5);
    const ways = [
      [() => handle.messageToThing(id, 'reset', { hard: true }, 'application/json', options()), '/inbox/messages/reset', { hard: true }],
      [() => handle.messageFromThing(id, 'alarm', { hot: 1 }, 'application/json', options()), '/outbox/messages/alarm', { hot: 1 }],
      [() => handle.messageToFeature(id, 'lamp', 'dim', 5, 'application/json', options()), '/features/lamp/inbox/messages/dim', 5],
      [() => handle.messageFromFeature(id, 'lamp', 'broken', 'yes', 'application/json', options()), '/features/lamp/outbox/messages/broken', 'yes'],
      [() => handle.claim(id, 'my secret', options()), '/inbox/messages/claim', 'my secret'],
    ];
    for (const [send, path, value] of ways) {
      const answer = send();
      const message = await got.take(path);
      assert.equal(message.path, path);
      assert.deepEqual(message.value, value);
      assert.equal(message.topic, `${id.replace(':', '/')}/things/live/messages/${path.split('/').pop()}`);
      reply(device, message, 200, { heard: path });
      const found = await answer;
      assert.equal(found.status, 200);
      assert.deepEqual(found.body, { heard: path });
    }
    const fired = await handle.messageToThing(id, 'later', 'x', 'text/plain', DefaultMessagesOptions.getInstance().withTimeout(0));
    assert.equal(fired.status, 202);
    assert.equal((await got.take('fired message')).value, '"x"');
  } finally {
    device.close();
  }
});

/** Answers a message: the client has no word for it but the envelope itself. */
function reply(device, message, status, value) {
  const { topic, path } = message;
  const headers = { 'correlation-id': message.headers['correlation-id'], 'content-type': 'application/json' };
  device.client.responseHandler.resilienceHandler.send(JSON.stringify({ topic, path, headers, value, status }));
}

test('a message that nobody answers is timed out', async () => {
  const id = await aThing('silent');
  const late = await refusal(http().getMessagesHandle().messageToThing(id, 'hello', {}, 'application/json',
    DefaultMessagesOptions.getInstance().withTimeout(1)));
  assert.equal(late.status, 408);
  assert.equal(late.body.error, 'command.timeout');
});

test('errors keep their status and code', async () => {
  const things = http().getThingsHandle();
  const mine = await aThing('errors');
  const cases = [
    [() => things.getThing(newId('absent')), 404, 'things:thing.notfound'],
    [() => things.putThing(thing('no colon')), 400, 'things:id.invalid'],
    [() => things.deleteAttribute(mine, 'nothing'), 404, 'things:attribute.notfound'],
    [() => http(basic('ditto', 'wrong')).getThingsHandle().getThing(newId('x')), 401, 'gateway:authentication.failed'],
    [() => http(basic('alice', 'alice-secret')).getThingsHandle().putAttribute(mine, 'a', 1), 403,
      'things:attribute.notmodifiable'],
  ];
  for (const [ask, status, code] of cases) {
    const error = await refusal(ask());
    assert.equal(error.status, status);
    assert.equal(error.body.error, code);
    assert.ok(error.body.message);
  }
});

run();
