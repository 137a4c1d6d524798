// npm clients against a gateway, for every model given: prints what they got as one JSON object,
// client by client and model by model.
import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const [url, apiKey, ...models] = process.argv.slice(2);
const messages = [{ role: "user", content: "Hello" }];
const parameters = { type: "object", properties: { city: { type: "string" } } };

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
const gateway = createOpenAICompatible({ name: "gateway", baseURL: `${url}/v1`, apiKey });

const clients = {
  async openai(model) {
    const request = { model, messages };
    const whole = await openai.chat.completions.create(request);
    let stream = "";
    for await (const chunk of await openai.chat.completions.create({ ...request, stream: true })) {
      stream += chunk.choices[0]?.delta?.content ?? "";
    }
    const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
    const helper = openai.chat.completions.stream({ ...request, tools });
    const [choice] = (await helper.finalChatCompletion()).choices;
    const calls = choice.message.tool_calls.map(
      ({ function: { name, arguments: given } }) => [name, JSON.parse(given)],
    );
    return { answer: whole.choices[0].message.content, stream, calls };
  },

  async anthropic(model) {
    const request = { model, max_tokens: 50, messages };
    const whole = await anthropic.messages.create(request);
    let stream = "";
    for await (const event of await anthropic.messages.create({ ...request, stream: true })) {
      if (event.delta?.type === "text_delta") stream += event.delta.text;
    }
    const tools = [{ name: "get_weather", input_schema: parameters }];
    const called = await anthropic.messages.stream({ ...request, tools }).finalMessage();
    const calls = called.content
      .filter(({ type }) => type === "tool_use")
      .map(({ name, input }) => [name, input]);
    return { answer: whole.content[0].text, stream, calls };
  },

  // Calls its tools itself, and asks again with what they found.
  async vercel(name) {
    const model = gateway(name);
    const whole = await generateText({ model, messages, maxRetries: 0 });
    let stream = "";
    for await (const piece of streamText({ model, messages, maxRetries: 0 }).textStream) {
      stream += piece;
    }
    const calls = [];
    const get_weather = tool({
      inputSchema: jsonSchema(parameters),
      execute: async (input) => {
        calls.push(["get_weather", input]);
        return `sunny in ${input.city}`;
      },
    });
    const loop = streamText({
      model, messages, tools: { get_weather }, stopWhen: stepCountIs(3), maxRetries: 0,
    });
    return { answer: whole.text, stream, calls, ended: await loop.text };
  },
};

async function told(client, model) {
  try {
    return await client(model);
  } catch (error) {
    return { failed: `${error.constructor.name}: ${error.message}` };
  }
}

const got = {};
for (const [name, client] of Object.entries(clients)) {
  got[name] = {};
  for (const model of models) got[name][model] = await told(client, model);
}
console.log(JSON.stringify(got));
