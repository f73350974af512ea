// A server that goes and comes back on the same port. Says `ready` on stdout; whoever runs this then restarts it.
'use strict';
const assert = require('node:assert');
const { test, run } = require('./runner');
const { socket, aThing, inbox, http, within } = require('./rig');

const until = async (check) => {
  while (!check()) await new Promise((done) => setTimeout(done, 20));
};

let one;
test('what was asked while the server was away is answered when it is back', async () => {
  const id = await aThing('reconnect', { attributes: { a: 1 } });
  one = await socket({ buffer: 10 });
  const things = one.client.getThingsHandle();
  assert.deepEqual(await things.getAttributes(id), { a: 1 });
  console.log('ready');
  await within(until(() => one.states.includes('reconnecting')), 'loss of the connection', 20000);
  const waiting = things.getAttributes(id);
  assert.deepEqual(await within(waiting, 'answer after the restart', 40000), { a: 1 });
  assert.equal((await things.putAttribute(id, 'a', 2)).status, 204);
  const got = inbox();
  const events = one.client.getEventsHandle();
  await events.requestEvents();
  events.subscribeToThing(id, got.put);
  await http().getThingsHandle().putAttribute(id, 'a', 3);
  assert.equal((await got.take('event')).value, 3);
});

run(() => one && one.close());
