// What both test files share: clients of the service named by DITTO_HOST (host:port), things, waiting.
'use strict';
const path = require('node:path');
const { randomUUID } = require('node:crypto');
const { later, within, inbox } = require('./waiting.js');

const ditto = require(
  path.join(process.env.DITTO_MODULES || path.join(__dirname, 'node_modules'), '@eclipse-ditto/ditto-javascript-client-node'),
);

const HOST = process.env.DITTO_HOST || '127.0.0.1:8080';
const NAMESPACE = 'org.acme.js';

const basic = (user = 'ditto', password = 'ditto') => ditto.NodeHttpBasicAuth.newInstance(user, password);

const http = (...auth) =>
  ditto.DittoNodeClient.newHttpClient().withoutTls().withDomain(HOST).withAuthProvider(...(auth.length ? auth : [basic()])).build();

/** An open WebSocket client; `options`: channel, buffer, host, auth. */
async function socket(options = {}) {
  const up = later();
  const states = [];
  const state = (name) => () => {
    states.push(name);
    if (name === 'connected') up.resolve();
    if (name === 'disconnected') up.reject(new Error('disconnected'));
  };
  const handler = {};
  for (const name of ['connected', 'disconnected', 'buffering', 'backPressure', 'reconnecting', 'bufferFull']) {
    handler[name] = state(name);
  }
  const start = ditto.DittoNodeClient.newWebSocketClient()
    .withoutTls()
    .withDomain(options.host || HOST)
    .withAuthProvider(options.auth || basic());
  const buffered = options.buffer ? start.withBuffer(options.buffer) : start.withoutBuffer();
  const channel = options.channel === 'live' ? buffered.liveChannel() : buffered.twinChannel();
  const client = channel.withStateHandler(handler).build();
  await within(up.promise, 'connection');
  return { client, states, close: () => client.close() };
}

const newId = (name) => `${NAMESPACE}:${name}-${randomUUID()}`;
const thing = (id, members = {}) => ditto.Thing.fromObject({ thingId: id, ...members });

/** Makes a thing and returns its id. */
async function aThing(name, members = {}) {
  const id = newId(name);
  await http().getThingsHandle().putThing(thing(id, members));
  return id;
}

module.exports = { ditto, HOST, NAMESPACE, basic, http, later, within, socket, inbox, newId, thing, aThing };
