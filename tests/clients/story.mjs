// A served log, told through the official Node.js client for EventStoreDB.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

const [writerAddress, readerAddress, folder] = process.argv.slice(2);
const {
  AccessDeniedError,
  BACKWARDS,
  EventStoreDBClient,
  NO_STREAM,
  StreamDeletedError,
  StreamNotFoundError,
  WrongExpectedVersionError,
  eventTypeFilter,
  jsonEvent,
  streamNameFilter,
} = createRequire(`${folder}/`)("@eventstore/db-client");

const event = (number, type = "Counted") => jsonEvent({ id: randomUUID(), type, data: { number } });

async function numbers(events) {
  const seen = [];
  for await (const { event } of events) seen.push(event.data.number);
  return seen;
}

async function story(client, reader) {
  const stream = "node-1";
  await assert.rejects(numbers(client.readStream(stream)), StreamNotFoundError);

  // Append with an expected revision, by a call and as a batch.
  const first = await client.appendToStream(stream, event(0), { expectedRevision: NO_STREAM });
  const batch = [1, 2, 3, 4].map((number) => event(number));
  const options = { expectedRevision: 0n };
  const appended = await client.appendToStream(stream, batch, options);
  assert.equal(appended.nextExpectedRevision, 4n);
  for (const credentials of [undefined, { username: "ada", password: "ada-writes" }]) {
    // With credentials of its own, a call takes the other way.
    const wrong = client.appendToStream(stream, event(9), { expectedRevision: 2n, credentials });
    await assert.rejects(wrong, WrongExpectedVersionError);
  }
  // A retry changes nothing.
  await client.appendToStream(stream, batch, options);

  assert.deepEqual(await numbers(client.readStream(stream)), [0, 1, 2, 3, 4]);
  const backwards = { direction: BACKWARDS, fromRevision: "end", maxCount: 2 };
  assert.deepEqual(await numbers(client.readStream(stream, backwards)), [4, 3]);
  assert.deepEqual(await numbers(client.readStream(stream, { fromRevision: 3n })), [3, 4]);

  // All: this client filters subscriptions only.
  await client.appendToStream("node-2", event(50, "Other"), { expectedRevision: NO_STREAM });
  const all = await numbers(client.readAll({ fromPosition: first.position }));
  assert.deepEqual(all, [0, 1, 2, 3, 4, 50]);
  const back = { direction: BACKWARDS, fromPosition: "end", maxCount: 3 };
  assert.deepEqual(await numbers(client.readAll(back)), [50, 4, 3]);
  const types = client.subscribeToAll({ filter: eventTypeFilter({ regex: "^Oth.*" }) });
  for await (const { event: other } of types) {
    assert.equal(other.streamId, "node-2");
    break;
  }

  // From what is stored to what comes.
  const filter = streamNameFilter({ prefixes: ["node-1"] });
  const subscription = client.subscribeToAll({ filter, fromPosition: first.position });
  const seen = [];
  for await (const { event: appeared } of subscription) {
    seen.push(appeared.data.number);
    if (seen.length === 4) await client.appendToStream(stream, event(5), { expectedRevision: 4n });
    if (seen.length === 5) break;
  }
  assert.deepEqual(seen, [1, 2, 3, 4, 5]);

  // Who may read only.
  assert.deepEqual(await numbers(reader.readStream(stream, { maxCount: 1 })), [0]);
  await assert.rejects(reader.appendToStream(stream, event(6)), AccessDeniedError);

  await client.deleteStream(stream, { expectedRevision: 5n });
  await assert.rejects(numbers(client.readStream(stream)), StreamNotFoundError);
  await client.appendToStream(stream, event(6), { expectedRevision: NO_STREAM });
  assert.deepEqual(await numbers(client.readStream(stream)), [6]);
  await client.tombstoneStream(stream, { expectedRevision: 6n });
  await assert.rejects(numbers(client.readStream(stream)), StreamDeletedError);
  await assert.rejects(client.appendToStream(stream, event(7)), StreamDeletedError);
}

// Whoever waits in vain fails.
setTimeout(() => {
  console.error("this takes too long");
  process.exit(1);
}, 60_000).unref();

const client = EventStoreDBClient.connectionString(writerAddress);
const reader = EventStoreDBClient.connectionString(readerAddress);
await story(client, reader);
await Promise.all([client.dispose(), reader.dispose()]);
console.log("the story is told");
process.exit(0);
