// The WebSocket client: twin and live commands, events, messages, acknowledgements, a server that goes and comes back.
'use strict';
const assert = require('node:assert');
const { test, run } = require('./runner');
const { ditto, basic, http, within, socket, inbox, newId, thing, aThing } = require('./rig');

const { DefaultMatchOptions, DefaultFieldsOptions } = ditto;
const open = [];

async function client(options) {
  const one = await socket(options);
  open.push(one);
  return one;
}

/** Sends an envelope as it is: what the client has no method for. */
const send = (one, envelope) => one.client.responseHandler.resilienceHandler.send(JSON.stringify(envelope));

/** Sends an envelope and returns the answer. */
const ask = (one, topic, path, value, headers) => within(one.client.responseHandler.sendRequest(topic, path, value, headers), `answer to ${topic}`);

const topicOf = (id, rest) => `${id.replace(':', '/')}/things/${rest}`;

async function refusal(promise) {
  return promise.then(() => assert.fail('was not refused'), (reason) => reason);
}

test('a thing and its parts live and die over the socket', async () => {
  const one = await client();
  const things = one.client.getThingsHandle();
  const id = newId('ws');
  const created = await things.createThing(thing(id, { attributes: { a: 1 } }));
  assert.equal(created.status, 201);
  assert.equal(created.body.thingId, id);
  assert.equal((await refusal(things.createThing(thing(id)))).error, 'things:thing.conflict');
  assert.equal((await things.putThing(thing(id, { attributes: { b: 2 } }))).status, 204);
  assert.equal((await things.patchThing(thing(id, { attributes: { c: 3 } }))).status, 204);
  assert.deepEqual((await things.getThing(id)).attributes, { b: 2, c: 3 });
  assert.equal((await things.putAttribute(id, 'deep/er', [1])).status, 201);
  assert.deepEqual(await things.getAttribute(id, 'deep/er'), [1]);
  assert.equal((await things.patchAttributes(id, { deep: null })).status, 204);
  assert.deepEqual(await things.getAttributes(id), { b: 2, c: 3 });
  assert.equal((await things.putDefinition(id, 'acme:pump:1')).status, 201);
  assert.equal(await things.getDefinition(id), 'acme:pump:1');
  assert.equal(await things.getPolicyId(id), id);
  const features = one.client.getFeaturesHandle ? one.client.getFeaturesHandle(id) : undefined;
  if (features) {
    assert.equal((await features.putFeature(ditto.Feature.fromObject({ properties: { on: true } }, 'lamp'))).status, 201);
    assert.equal((await features.putProperty('lamp', 'on', false)).status, 204);
    assert.equal((await features.patchProperties('lamp', { level: 5 })).status, 204);
    assert.deepEqual(await features.getProperties('lamp'), { on: false, level: 5 });
    assert.equal((await features.deleteFeature('lamp')).status, 204);
  }
  assert.equal((await things.deleteAttributes(id)).status, 204);
  assert.equal((await things.deleteThing(id)).status, 204);
  assert.equal((await refusal(things.getThing(id))).error, 'things:thing.notfound');
});

test('headers of conditions count in any case', async () => {
  const one = await client();
  const things = one.client.getThingsHandle();
  const id = await aThing('cond');
  assert.equal((await refusal(things.putThing(thing(id), DefaultMatchOptions.getInstance().ifNoneMatchAny()))).error, 'things:precondition.failed');
  assert.equal((await refusal(things.putThing(thing(id), DefaultMatchOptions.getInstance().ifMatch('"rev:9"')))).status, 412);
  assert.equal((await things.putThing(thing(id), DefaultMatchOptions.getInstance().ifMatch('"rev:1"'))).status, 204);
  const same = await refusal(things.getThing(id, DefaultFieldsOptions.getInstance().ifNoneMatch('"rev:2"')));
  assert.equal(same.error, 'things:precondition.notmodified');
});

test('events arrive at whoever watches, in order, and not at their cause', async () => {
  const watcher = await client();
  const actor = await client();
  const events = watcher.client.getEventsHandle();
  await events.requestEvents();
  const own = actor.client.getEventsHandle();
  await own.requestEvents();
  const id = newId('events');
  const [all, echoes, lamps] = [inbox(), inbox(), inbox()];
  events.subscribeToThing(id, all.put);
  own.subscribeToThing(id, echoes.put);
  events.subscribeToProperty(id, 'lamp', 'on', lamps.put, 'modified');
  const things = actor.client.getThingsHandle();
  await things.createThing(thing(id, { features: { lamp: { properties: { on: false } } } }));
  await things.putAttribute(id, 'a', 1);
  await ask(actor, topicOf(id, 'twin/commands/modify'), '/features/lamp/properties/on', true, {});
  await things.patchThing(thing(id, { attributes: { b: 2 } }));
  await things.deleteThing(id);
  const seen = [];
  for (let count = 0; count < 5; count += 1) seen.push(await all.take('event'));
  assert.deepEqual(seen.map((event) => [event.action, event.path]), [
    ['created', '/'], ['created', '/attributes/a'], ['modified', '/features/lamp/properties/on'], ['merged', '/'], ['deleted', '/'],
  ]);
  assert.equal(seen[0].value.thingId, id);
  assert.equal(seen[2].value, true);
  assert.deepEqual(seen[3].value.attributes, { b: 2 });
  assert.equal(seen[3].headers['content-type'], 'application/merge-patch+json');
  assert.equal(seen[4].value, undefined);
  assert.equal((await lamps.take('change of the lamp')).value, true);
  assert.equal(echoes.size, 0);
  await events.stopEvents();
  await things.createThing(thing(newId('quiet')));
  assert.equal(all.size, 0);
});

test('messages are sent, received and answered over sockets', async () => {
  const id = await aThing('messages', { features: { lamp: {} } });
  const device = await client({ channel: 'live' });
  const asking = await client({ channel: 'live' });
  const got = inbox();
  const messages = device.client.getMessagesHandle();
  await messages.requestMessages();
  messages.subscribeToThing(id, got.put);
  const handle = asking.client.getMessagesHandle();
  const ways = [
    [() => handle.messageToThing(id, 'reset', { hard: 1 }, 'application/json'), '/inbox/messages/reset', { hard: 1 }],
    [() => handle.messageFromThing(id, 'alarm', 'hot', 'text/plain'), '/outbox/messages/alarm', 'hot'],
    [() => handle.messageToFeature(id, 'lamp', 'dim', 5, 'application/json'), '/features/lamp/inbox/messages/dim', 5],
    [() => handle.messageFromFeature(id, 'lamp', 'dark', null, 'application/json'), '/features/lamp/outbox/messages/dark', null],
    [() => handle.claim(id, 'secret'), '/inbox/messages/claim', 'secret'],
  ];
  for (const [start, path, value] of ways) {
    const answer = start();
    const message = await got.take(path);
    assert.equal(message.path, path);
    assert.deepEqual(message.value, value);
    const { topic, headers } = message;
    await send(device, {
      topic, path, status: 202, value: [path],
      headers: { 'correlation-id': headers['correlation-id'], 'content-type': 'application/json' },
    });
    const found = await within(answer, `answer to ${path}`);
    assert.equal(found.status, 202);
    assert.deepEqual(found.body, [path]);
  }
  await handle.messageToThingWithoutResponse(id, 'fire', 'x', 'text/plain');
  assert.equal((await got.take('message without answer')).value, 'x');
  await handle.claimWithoutResponse(id, 'again');
  assert.equal((await got.take('claim without answer')).value, 'again');
  const late = await within(handle.messageToThing(id, 'nobody', 1, 'application/json',
    ditto.DefaultMessagesOptions.getInstance().addHeader('timeout', '1')), 'timeout');
  assert.equal(late.status, 408);
  assert.equal(late.body.error, 'command.timeout');
});

test('a live command reaches the device and its answer the asker', async () => {
  const id = await aThing('live', { attributes: { twin: true } });
  const device = await client({ channel: 'live' });
  const asking = await client({ channel: 'live' });
  const got = inbox();
  const commands = device.client.getCommandsHandle();
  await commands.requestCommands();
  commands.subscribeToThing(id, got.put);
  const answering = async (status, value) => {
    const { topic, path, headers } = await got.take('command');
    await send(device, { topic, path, status, value, headers: { 'correlation-id': headers['correlation-id'], 'content-type': 'application/json' } });
    return { topic, path };
  };
  const things = asking.client.getThingsHandle();
  const read = things.getAttributes(id);
  assert.deepEqual(await answering(200, { live: true }), { topic: topicOf(id, 'live/commands/retrieve'), path: '/attributes' });
  assert.deepEqual(await within(read, 'live attributes'), { live: true });
  const written = things.putAttribute(id, 'a', 1);
  assert.deepEqual(await answering(204), { topic: topicOf(id, 'live/commands/modify'), path: '/attributes/a' });
  assert.equal((await within(written, 'live answer')).status, 204);
  assert.deepEqual(await http().getThingsHandle().getAttributes(id), { twin: true });
  await commands.stopCommands();
});

test('live events go from socket to socket and leave the twin alone', async () => {
  const id = await aThing('liveevents');
  const device = await client({ channel: 'live' });
  const watcher = await client({ channel: 'live' });
  const got = inbox();
  const events = watcher.client.getEventsHandle();
  await events.requestEvents();
  events.subscribeToAttribute(id, 'speed', got.put);
  await send(device, { topic: topicOf(id, 'live/events/modified'), path: '/attributes/speed', value: 9, headers: {} });
  const event = await got.take('live event');
  assert.deepEqual([event.action, event.value], ['modified', 9]);
  assert.equal((await http().getThingsHandle().getThing(id)).attributes, undefined);
});

test('search runs over the socket', async () => {
  const one = await client();
  const id = await aThing('search', { attributes: { a: 5 } });
  const got = inbox();
  one.client.responseHandler.subscribe({ matches: (message) => message.topic.startsWith('_/_/things/twin/search/'), callback: got.put });
  const created = await ask(one, '_/_/things/twin/search/subscribe', '/', { filter: `eq(thingId,"${id}")`, options: 'size(1)' }, {});
  const { subscriptionId } = created.body;
  await send(one, { topic: '_/_/things/twin/search/request', path: '/', headers: {}, value: { subscriptionId, demand: 3 } });
  const next = await got.take('next');
  assert.equal(next.topic, '_/_/things/twin/search/next');
  assert.deepEqual(next.value.items.map((item) => item.attributes), [{ a: 5 }]);
  assert.equal((await got.take('complete')).topic, '_/_/things/twin/search/complete');
});

test('acknowledgements that were asked for are waited for', async () => {
  const id = await aThing('acks', { attributes: { a: 1 } });
  const one = await client();
  const headers = { 'requested-acks': ['twin-persisted', 'search-persisted'], timeout: '5s' };
  const both = await ask(one, topicOf(id, 'twin/commands/modify'), '/attributes/a', 2, headers);
  assert.equal(both.status, 200);
  assert.deepEqual([both.body['twin-persisted'].status, both.body['search-persisted'].status], [204, 204]);
  const missing = await ask(one, topicOf(id, 'twin/commands/modify'), '/attributes/a', 3,
    { 'requested-acks': ['twin-persisted', 'js:nobody'], timeout: '1s' });
  assert.equal(missing.status, 424);
  assert.equal(missing.body['js:nobody'].status, 408);
  assert.equal(missing.body['js:nobody'].payload.error, 'acknowledgement:request.timeout');
});

test('errors come as the answer to what caused them', async () => {
  const one = await client();
  const things = one.client.getThingsHandle();
  const id = await aThing('errors');
  const cases = [
    [() => things.getThing(newId('absent')), 404, 'things:thing.notfound'],
    [() => things.deleteAttribute(id, 'nothing'), 404, 'things:attribute.notfound'],
    [() => ask(one, topicOf(id, 'twin/commands/modify'), '/nowhere', 1, {}).then((answer) => Promise.reject(answer.body)), 400, 'protocoladapter:unknown.path'],
  ];
  for (const [start, status, code] of cases) {
    const error = await refusal(start());
    assert.deepEqual([error.status, error.error], [status, code]);
  }
  const alice = await client({ auth: basic('alice', 'alice-secret') });
  assert.equal((await refusal(alice.client.getThingsHandle().putAttribute(id, 'a', 1))).error, 'things:attribute.notmodifiable');
});

test('wrong credentials get no socket', async () => {
  await assert.rejects(socket({ auth: basic('ditto', 'wrong') }));
});

test('a bearer that is no token is refused', async () => {
  const bearer = ditto.HttpBearerAuth.newInstance(new ditto.DefaultTokenSupplier('nonsense'));
  const error = await refusal(http(bearer).getThingsHandle().getThing(newId('x')));
  assert.equal(error.status, 401);
});

run(() => open.forEach((one) => one.close()));
