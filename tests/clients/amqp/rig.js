// Connections, links and outcomes of rhea as promises. What to talk to and as whom is told by AMQP_RIG, JSON:
// `application` and `device` (options of rhea's connect), `secret` and `open` (the device's ways without password).
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { later, within, inbox } = require('../javascript/waiting.js');

const rhea = require(path.join(process.env.AMQP_MODULES || path.join(__dirname, 'node_modules'), 'rhea'));

const GIVEN = JSON.parse(process.env.AMQP_RIG);
for (const name of ['cert', 'key', 'ca']) {
  if (GIVEN.secret[name]) GIVEN.secret[name] = fs.readFileSync(GIVEN.secret[name]);
}

const connections = [];

/** Opens a connection; rejects with the error that ends it before. */
function connect(options) {
  const up = later();
  const connection = rhea.create_container().connect({ reconnect: false, ...options });
  connections.push(connection);
  connection.on('connection_open', () => up.resolve(connection));
  connection.on('connection_error', (context) => up.reject(context.error));
  connection.on('disconnected', (context) => up.reject(context.error || new Error('disconnected')));
  return within(up.promise, 'open');
}

/** Opens a receiver; `inbox` holds the contexts of its messages. The server knows its credit when this resolves. */
async function receive(connection, options) {
  const up = later();
  const link = connection.open_receiver({ credit_window: 10, ...options });
  const found = { link, inbox: inbox(), drained: later() };
  link.on('message', found.inbox.put);
  link.on('receiver_drained', found.drained.resolve);
  link.on('receiver_open', () => handled(connection).then(up.resolve, up.reject));
  link.on('receiver_error', () => up.reject(link.error));
  await within(up.promise, 'receiver');
  return found;
}

/** Opens a sender; it has credit when this resolves. */
async function sender(connection, target, options = {}) {
  const up = later();
  const link = connection.open_sender({ target, treat_modified_as_released: false, ...options });
  link.on('sendable', up.resolve);
  link.on('sender_error', () => up.reject(link.error));
  await within(up.promise, 'credit');
  return link;
}

/** Sends a message; resolves with its outcome: [name], or [name, condition, description]. */
function send(link, message) {
  const outcome = later();
  const delivery = link.send(message);
  const listeners = ['accepted', 'rejected', 'released', 'modified'].map((name) => [
    name,
    (context) => {
      if (context.delivery !== delivery) return;
      for (const [of, listener] of listeners) link.removeListener(of, listener);
      const error = delivery.remote_state.error;
      outcome.resolve(error ? [name, error.condition, error.description] : [name]);
    },
  ]);
  for (const [name, listener] of listeners) link.on(name, listener);
  return within(outcome.promise, 'outcome');
}

/** Resolves once the server has handled all that went out before: its answers come in order. */
function handled(connection) {
  const up = later();
  const session = connection.create_session();
  session.on('session_open', () => {
    session.close();
    up.resolve();
  });
  session.on('session_close', () => {});
  session.open();
  return within(up.promise, 'session');
}

const body = (text) => rhea.message.data_section(Buffer.from(text));
const text = (message) => (message.body ? message.body.content.toString() : '');

/** Runs `work` on connections that are closed afterwards. */
async function closing(work) {
  try {
    await work();
  } finally {
    for (const connection of connections.splice(0)) connection.close();
  }
}

module.exports = { rhea, GIVEN, connect, receive, sender, send, handled, body, text, closing, within, later };
