// Calls of OpenAI's npm client beside chats; what came back is printed as JSON.
import OpenAI, { toFile } from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const got = {};

const embedded = await client.embeddings.create({ model: "scripted/embed", input: ["a", "b"] });
got.vectors = embedded.data.map((each) => Array.from(each.embedding));

const text = await client.completions.create({ model: "scripted/text", prompt: "a" });
got.text = text.choices[0].text;
got.streamed = "";
for await (const chunk of await client.completions.create({
  model: "scripted/text",
  prompt: "a",
  stream: true,
})) {
  got.streamed += chunk.choices[0].text;
}

const recording = await toFile(Buffer.alloc(3_000_000, 7), "a.mp3");
const heard = await client.audio.transcriptions.create({ file: recording, model: "scripted/whisper" });
got.heard = heard.text;

const spoken = await client.audio.speech.create({ model: "scripted/tts", voice: "alloy", input: "a" });
got.spoken = Buffer.from(await spoken.arrayBuffer()).toString();

const file = await toFile(Buffer.from("{}\n"), "a.jsonl");
const uploaded = await client.files.create(
  { file, purpose: "batch" },
  { headers: { "x-gateway-provider": "scripted" } },
);
got.uploaded = uploaded.id;

console.log(JSON.stringify(got));
