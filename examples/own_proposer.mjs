// A proposer in JavaScript. docs/protocol.md describes the messages.
//
//     npm install --no-save zeromq@6 msgpackr@1 && node examples/own_proposer.mjs tcp://127.0.0.1:5555
//
// Replace `candidates` with a call of your LLM. Ends when the trainer leaves.

import { Packr } from "msgpackr";
import { Dealer } from "zeromq";

const MODEL = "own-proposer";
const READY_MS = 2000; // the trainer takes a proposer for gone after five intervals without a ready

const packr = new Packr({ useRecords: false });
const dealer = new Dealer({ immediate: true, linger: 0, sendTimeout: 0 });
dealer.connect(process.argv[2] ?? "tcp://127.0.0.1:5555");

// Prompts in words, as many as the digest asks for: the best one so far with one word replaced by another that the
// gradient points to.
function candidates(digest) {
  const best = (digest.best[0]?.words ?? digest.task).split(" ");
  const pointed = digest.substitutions.flatMap((one) => one.replacements);
  const words = pointed.length ? pointed : digest.labels;
  const pick = (list) => Math.floor(Math.random() * list.length);
  const found = new Set();
  for (let turn = 0; turn < 4 * digest.num_candidates; turn++) {
    const changed = [...best];
    changed[pick(changed)] = words[pick(words)];
    found.add(changed.join(" "));
  }
  return [...found].slice(0, digest.num_candidates);
}

let waiting = Promise.resolve(); // a socket takes one send at a time
function send(kind, fields) {
  waiting = waiting.then(() => dealer.send(packr.pack({ v: 2, kind, ...fields }))).catch((error) => {
    if (error.code !== "EAGAIN") throw error; // no trainer yet; a later ready finds one
  });
  return waiting;
}

const ready = () => send("ready", { name: "example", model: MODEL, credits: 1, holding: [] });
const timer = setInterval(ready, READY_MS);
ready();

for await (const [frame] of dealer) {
  const message = packr.unpack(frame);
  if (message.kind === "work") {
    const began = performance.now();
    const words = candidates(message.digest);
    const usage = { seconds: (performance.now() - began) / 1000 };
    await send("proposal", { lease: message.lease, model: MODEL, candidates: words, usage });
    console.log(`step ${message.digest.step}: ${words.length} candidates`);
    await ready();
  } else if (message.kind === "reject") {
    console.error(`refused: ${message.reason} ${message.detail ?? ""}`);
  } else if (message.kind === "bye") {
    clearInterval(timer);
    dealer.close();
    break;
  }
}
