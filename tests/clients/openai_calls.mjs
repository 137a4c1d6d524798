// OpenAI's npm client against the gateway: prints what it got as one JSON object.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const request = { model: "scripted/gpt-4o-mini", messages: [{ role: "user", content: "Hello?" }] };

const whole = await client.chat.completions.create(request);
const { request_id: requestId } = await client.chat.completions.create(request).withResponse();

let streamed = "";
let usage = null;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...request, ...options })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

const helper = client.chat.completions.stream(request);
const helped = await helper.finalContent();

const models = [];
for await (const model of client.models.list()) models.push(model.id);

let refused = null;
try {
  await client.chat.completions.create({ ...request, temperature: "warm" });
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, param: error.param };
}

console.log(JSON.stringify({
  whole: whole.choices[0].message.content, requestId, streamed, usage, helped, models, refused,
}));
