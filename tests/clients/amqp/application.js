// rhea as an application at the northbound endpoint: credit, outcomes, commands, replies.
'use strict';
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { test, run } = require('../javascript/runner.js');
const { rhea, GIVEN, connect, receive, sender, send, handled, body, text, closing, within } = require('./rig.js');

const TENANT = GIVEN.tenant;
const each = (name, work) => test(name, () => closing(work));

/** A device that sends, and its link for that. */
async function aDevice() {
  const connection = await connect(GIVEN.device);
  return { connection, link: await sender(connection, {}) };
}
const telemetry = (word, more = {}) => ({ to: 'telemetry', content_type: 'text/plain', body: body(word), ...more });
const command = (more = {}) => ({ to: `command/${TENANT}/d1`, subject: 'ask', body: body('?'), ...more });

each('the endpoint offers the anonymous relay and says who it is', async () => {
  const { remote } = await connect(GIVEN.application);
  assert.deepEqual([].concat(remote.open.offered_capabilities), ['ANONYMOUS-RELAY']);
  assert.ok(remote.open.container_id);
});

each('messages come as far as the credit goes, and each answer reaches the device', async () => {
  const application = await connect(GIVEN.application);
  const answers = [
    [(delivery) => delivery.accept(), 'accepted'],
    [(delivery) => delivery.reject({ condition: 'x:y', description: 'no' }), 'rejected'],
    [(delivery) => delivery.release(), 'released'],
    [(delivery) => delivery.modified({ delivery_failed: true }), 'released'],
    [(delivery) => delivery.modified({ undeliverable_here: true }), 'rejected'],
  ];
  const wanted = await receive(application, { source: `telemetry/${TENANT}`, credit_window: 0, autoaccept: false });
  wanted.link.add_credit(answers.length);
  await handled(application);
  const device = await aDevice();
  const outcomes = [...answers, 0, 0].map((_, at) => send(device.link, telemetry(`${at}`)));
  for (const [at, [answer]] of answers.entries()) {
    const { message, delivery } = await wanted.inbox.take();
    assert.equal(text(message), `${at}`);
    assert.equal(message.application_properties.device_id, 'd1');
    assert.match(message.message_annotations['x-opt-trace-context'].traceparent, /^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/);
    answer(delivery);
    await handled(application); // rhea writes two answers of one turn as one, though they differ
  }
  const told = (await Promise.all(outcomes)).map(([name]) => name);
  assert.deepEqual(told, [...answers.map(([, name]) => name), 'released', 'released']);
  assert.equal(wanted.inbox.size, 0);
});

each('events wait for credit, which rhea tops up, and come in order', async () => {
  const device = await aDevice();
  const names = Array.from({ length: 12 }, (_, at) => `e${at}`);
  for (const name of names) {
    assert.deepEqual(await send(device.link, { ...telemetry(name), to: 'event', durable: true }), ['accepted']);
  }
  const wanted = await receive(await connect(GIVEN.application), { source: `event/${TENANT}`, credit_window: 2 });
  const got = [];
  for (const _ of names) {
    const { message } = await wanted.inbox.take();
    assert.ok(message.durable);
    got.push(text(message));
  }
  assert.deepEqual(got, names);
});

each('an event that is handed back comes again, and counted when it failed', async () => {
  const device = await aDevice();
  const application = await connect(GIVEN.application);
  const wanted = await receive(application, { source: `event/${TENANT}`, credit_window: 1, autoaccept: false });
  assert.deepEqual(await send(device.link, { ...telemetry('again'), to: 'event' }), ['accepted']);
  const counts = [];
  for (const answer of ['release', 'modified', 'accept']) {
    const { message, delivery } = await wanted.inbox.take();
    assert.equal(text(message), 'again');
    counts.push(message.delivery_count || 0);
    delivery[answer](answer === 'modified' ? { delivery_failed: true } : undefined);
  }
  assert.deepEqual(counts, [0, 0, 1]);
});

each('a long event comes in frames as small as the application wants them', async () => {
  const device = await aDevice();
  const long = 'x'.repeat(2000);
  assert.deepEqual(await send(device.link, { ...telemetry(long), to: 'event' }), ['accepted']);
  const application = await connect({ ...GIVEN.application, max_frame_size: 512 });
  const { message } = await (await receive(application, { source: `event/${TENANT}` })).inbox.take();
  assert.equal(text(message), long);
});

each('an application may ask for settled messages, or to settle second', async () => {
  const device = await aDevice();
  for (const wish of [{ snd_settle_mode: 1 }, { rcv_settle_mode: 1 }]) {
    const application = await connect(GIVEN.application);
    const wanted = await receive(application, { source: `telemetry/${TENANT}`, autoaccept: false, ...wish });
    const outcome = send(device.link, telemetry('t'));
    const { delivery } = await wanted.inbox.take();
    assert.equal(Boolean(delivery.remote_settled), 'snd_settle_mode' in wish);
    const settled = new Promise((done) => wanted.link.on('settled', done));
    if (!delivery.remote_settled) {
      delivery.update(false, rhea.message.accepted().described());
      await within(settled, 'settlement by the sender');
    }
    assert.deepEqual(await outcome, ['accepted']);
    wanted.link.close();
    await handled(application);
  }
});

each('a link that is detached leaves its events to the next', async () => {
  const device = await aDevice();
  const application = await connect(GIVEN.application);
  const first = await receive(application, { source: `event/${TENANT}`, autoaccept: false, name: 'same' });
  assert.deepEqual(await send(device.link, { ...telemetry('left'), to: 'event' }), ['accepted']);
  assert.equal(text((await first.inbox.take()).message), 'left');
  first.link.detach();
  await handled(application);
  const second = await receive(application, { source: `event/${TENANT}`, name: 'same again' });
  assert.equal(text((await second.inbox.take()).message), 'left');
});

each('a drain gives the credit back', async () => {
  const application = await connect(GIVEN.application);
  const wanted = await receive(application, { source: `telemetry/${TENANT}`, credit_window: 0 });
  wanted.link.add_credit(5);
  wanted.link.drain_credit();
  await within(wanted.drained.promise, 'drain');
  assert.equal(wanted.link.credit, 0);
  const device = await aDevice();
  assert.deepEqual(await send(device.link, telemetry('late')), ['released']);
});

each('unknown addresses are refused with a condition', async () => {
  const application = await connect(GIVEN.application);
  await assert.rejects(receive(application, { source: 'queue' }), { condition: 'amqp:not-found' });
  await assert.rejects(sender(application, 'queue'), { condition: 'amqp:not-found' });
});

each('a wrong password is an authentication failure', async () => {
  await assert.rejects(connect({ ...GIVEN.application, password: 'wrong' }), /authenticate|auth/i);
});

each('a command has the outcome that its device gives it', async () => {
  const application = await connect(GIVEN.application);
  const link = await sender(application, `command/${TENANT}`);
  assert.deepEqual(await send(link, command()), ['released'], 'nobody listens');
  const device = await connect(GIVEN.device);
  const wanted = await receive(device, { source: 'command', autoaccept: false });
  const answers = {
    accepted: (delivery) => delivery.accept(),
    rejected: (delivery) => delivery.reject({ condition: 'dev:busy', description: 'not now' }),
    released: (delivery) => delivery.release(),
    modified: (delivery) => delivery.modified({ delivery_failed: true }),
  };
  for (const [name, answer] of Object.entries(answers)) {
    const outcome = send(link, command({ subject: name }));
    const { message, delivery } = await wanted.inbox.take();
    assert.equal(message.subject, name);
    assert.equal(message.reply_to, undefined);
    answer(delivery);
    const [told, , why] = await outcome;
    assert.equal(told, name);
    if (name === 'rejected') assert.equal(why, 'not now');
  }
});

/** One question from an application to a device and back, at whatever reply address. */
async function askAndAnswer(application, replies, replyTo) {
  const device = await aDevice();
  const wanted = await receive(device.connection, { source: 'command' });
  const relay = await sender(application, {});
  const id = randomUUID();
  assert.deepEqual(await send(relay, command({ reply_to: replyTo, message_id: id })), ['accepted']);
  const { message: asked } = await wanted.inbox.take();
  const answer = {
    to: asked.reply_to,
    correlation_id: asked.correlation_id,
    application_properties: { status: 200 },
    content_type: 'text/plain',
    body: body('!'),
  };
  assert.deepEqual(await send(device.link, answer), ['accepted']);
  const { message } = await replies.inbox.take();
  assert.deepEqual([text(message), message.correlation_id], ['!', id]);
  assert.equal(message.application_properties.status, 200);
}

each('a question through the anonymous relay is answered at its reply address', async () => {
  const application = await connect(GIVEN.application);
  const address = `command_response/${TENANT}/${randomUUID()}`;
  await askAndAnswer(application, await receive(application, { source: address }), address);
});

each('a question is answered at an address that the gateway made up', async () => {
  const application = await connect(GIVEN.application);
  const replies = await receive(application, { source: { dynamic: true } });
  assert.ok(replies.link.source.address);
  await askAndAnswer(application, replies, replies.link.source.address);
});

run();
