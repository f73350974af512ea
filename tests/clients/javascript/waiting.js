// Waiting for what a client is told by callbacks.
'use strict';

/** A promise with its handles outside. */
function later() {
  const found = {};
  found.promise = new Promise((resolve, reject) => Object.assign(found, { resolve, reject }));
  return found;
}

/** Fails a promise that takes longer than `ms`. */
function within(promise, what, ms = 8000) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms`)), ms);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/** What a callback is called with, one after another. */
function inbox() {
  const waiting = [];
  const arrived = [];
  return {
    put: (message) => (waiting.length ? waiting.shift()(message) : arrived.push(message)),
    take: (what = 'message') =>
      within(arrived.length ? Promise.resolve(arrived.shift()) : new Promise((done) => waiting.push(done)), what),
    get size() {
      return arrived.length;
    },
  };
}

module.exports = { later, within, inbox };
