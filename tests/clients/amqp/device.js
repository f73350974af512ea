// rhea as a device at the AMQP adapter: its ways in, the anonymous terminus, what is refused.
'use strict';
const assert = require('node:assert/strict');
const { test, run } = require('../javascript/runner.js');
const { GIVEN, connect, receive, sender, send, body, text, closing, within, later } = require('./rig.js');

const each = (name, work) => test(name, () => closing(work));
const event = (word, more = {}) => ({ to: 'event', content_type: 'text/plain', body: body(word), ...more });

/** An application's events, one after another, each as [device, text]. */
async function events(tenant = GIVEN.tenant) {
  const { inbox } = await receive(await connect(GIVEN.application), { source: `event/${tenant}` });
  return async () => {
    const { message } = await inbox.take();
    return [message.application_properties.device_id, text(message)];
  };
}

each('the adapter says who it is and that it relays', async () => {
  const nextEvent = await events();
  const { remote } = await connect(GIVEN.device);
  assert.equal(remote.open.container_id, 'hono-amqp');
  assert.deepEqual([].concat(remote.open.offered_capabilities), ['ANONYMOUS-RELAY']);
});

for (const [name, target] of Object.entries({ 'no address': {}, 'an empty address': { address: '' } })) {
  each(`a link with ${name} takes what its messages name`, async () => {
    const nextEvent = await events();
    const link = await sender(await connect(GIVEN.device), target);
    assert.deepEqual(await send(link, event(name)), ['accepted']);
    assert.deepEqual(await nextEvent(), ['d1', name]);
    assert.equal((await send(link, event('x', { to: 'nowhere' })))[1], 'amqp:not-found');
    assert.deepEqual(await send(link, event('after')), ['accepted']);
    assert.deepEqual(await nextEvent(), ['d1', 'after']);
  });
}

each('a link with an address is refused', async () => {
  const device = await connect(GIVEN.device);
  await assert.rejects(sender(device, 'telemetry'), {
    condition: 'hono:bad-request',
    description: 'container supports anonymous terminus only',
  });
});

each('a message over the limit ends its link alone', async () => {
  const nextEvent = await events();
  const device = await connect(GIVEN.device);
  const link = await sender(device, {});
  const gone = later();
  link.on('sender_error', () => gone.resolve(link.error.condition));
  link.send(event('x'.repeat(3000)));
  assert.equal(await within(gone.promise, 'detach'), 'amqp:link:message-size-exceeded');
  assert.deepEqual(await send(await sender(device, {}), event('small')), ['accepted']);
  assert.deepEqual(await nextEvent(), ['d1', 'small']);
});

each('a settled event is not taken, and settled telemetry is at most once', async () => {
  const nextEvent = await events();
  const application = await connect(GIVEN.application);
  const wanted = await receive(application, { source: `telemetry/${GIVEN.tenant}` });
  const device = await connect(GIVEN.device);
  const link = await sender(device, {}, { snd_settle_mode: 1 });
  link.send(event('lost'));
  link.send({ to: 'telemetry', body: body('kept') });
  const { message } = await wanted.inbox.take();
  assert.deepEqual([text(message), message.application_properties.qos], ['kept', 0]);
  assert.deepEqual(await send(await sender(device, {}), event('next')), ['accepted']);
  assert.deepEqual(await nextEvent(), ['d1', 'next']);
});

each('a gateway sends for its device, and for no other', async () => {
  const nextEvent = await events();
  const link = await sender(await connect(GIVEN.gateway), {});
  assert.deepEqual(await send(link, event('by gw', { to: `event/${GIVEN.tenant}/d2` })), ['accepted']);
  assert.deepEqual(await nextEvent(), ['d2', 'by gw']);
  assert.deepEqual(await send(link, event('by gw', { to: 'e//d2' })), ['accepted']);
  assert.deepEqual(await nextEvent(), ['d2', 'by gw']);
  const [outcome, condition] = await send(link, event('x', { to: `event/${GIVEN.tenant}/d1` }));
  assert.deepEqual([outcome, condition], ['rejected', 'amqp:unauthorized-access']);
});

each('a wrong password is an authentication failure', async () => {
  await assert.rejects(connect({ ...GIVEN.device, password: 'wrong' }), /authenticate|auth/i);
});

for (const version of ['TLSv1.2', 'TLSv1.3']) {
  each(`SASL EXTERNAL: the certificate of the connection is the login (${version})`, async () => {
    const nextEvent = await events();
    const forced = { minVersion: version, maxVersion: version, enable_sasl_external: true };
    const device = await connect({ ...GIVEN.secret, ...forced });
    assert.equal(device.socket.getProtocol(), version);
    assert.deepEqual(await send(await sender(device, {}), event('by certificate')), ['accepted']);
    assert.deepEqual(await nextEvent(), ['d1', 'by certificate']);
  });
}

each('SASL EXTERNAL is not to be had without a certificate', async () => {
  const { cert, key, ...bare } = GIVEN.secret;
  assert.ok(cert && key);
  await assert.rejects(connect({ ...bare, enable_sasl_external: true, sasl_mechanisms: { EXTERNAL: external() } }));
});

/** A client side of EXTERNAL that does not look whether there is a certificate. */
const external = () => () => ({ start: (done) => done(undefined, ''), step: (_, done) => done(undefined, '') });

each('SASL ANONYMOUS: a device of an open tenant names itself', async () => {
  const nextEvent = await events(GIVEN.openTenant);
  const device = await connect(GIVEN.open);
  const link = await sender(device, {});
  assert.deepEqual(await send(link, event('hello', { to: `event/${GIVEN.openTenant}/o1` })), ['accepted']);
  assert.deepEqual(await nextEvent(), ['o1', 'hello']);
  const refused = await send(link, event('x', { to: `event/${GIVEN.tenant}/d1` }));
  assert.equal(refused[0], 'rejected', 'its tenant wants to know who it is');
});

run();
