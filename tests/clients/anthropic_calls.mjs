// Anthropic's npm client against the gateway: prints what it got as one JSON object.
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const request = {
  model: "scripted/gpt-4o-mini",
  max_tokens: 100,
  messages: [{ role: "user", content: "Hello?" }],
};
const tools = [{ name: "get_weather", input_schema: { type: "object", properties: {} } }];

const whole = await client.messages.create(request);
const { request_id: requestId } = await client.messages.create(request).withResponse();

let streamed = "";
const kinds = [];
for await (const event of await client.messages.create({ ...request, stream: true })) {
  kinds.push(event.type);
  if (event.delta?.type === "text_delta") streamed += event.delta.text;
}

const helped = await client.messages.stream(request).finalMessage();
const called = await client.messages.stream({ ...request, tools }).finalMessage();
const counted = await client.messages.countTokens({
  model: request.model, messages: request.messages,
});

let refused = null;
try {
  await client.messages.create({ ...request, stop_sequences: "END" });
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, type: error.error?.error?.type };
}

console.log(JSON.stringify({
  whole: whole.content[0].text,
  requestId,
  streamed,
  kinds,
  helped: helped.content[0].text,
  usage: helped.usage,
  called: called.content,
  stop: called.stop_reason,
  counted: counted.input_tokens,
  refused,
}));
