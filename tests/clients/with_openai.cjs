// openai's Node client: chat streams, responses, tools in a loop, reasoning.
//
//     OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=… node with_openai.cjs plain

const assert = require("node:assert/strict");
const OpenAI = require("openai");

const client = new OpenAI({ maxRetries: 0 });
const model = "tiny";
const question = "서울과 부산의 날씨를 알려 주세요.";
const answer = "오늘은 서울이 맑습니다.";
const reasoning = "서울을 물었으니 맑다고 답하자.";
const messages = [{ role: "user", content: question }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};
const cities = (calls) => calls.map((call) => JSON.parse(call.arguments ?? call.function.arguments).city);

const checks = {
  plain: {
    async models() {
      const ids = [];
      for await (const one of client.models.list()) ids.push(one.id);
      assert.deepEqual(ids, [model]);
    },

    async "a stream says what is said whole"() {
      const asked = { model, messages, max_tokens: 16, temperature: 0 };
      const whole = await client.chat.completions.create(asked);
      let said = "";
      let usage = null;
      const stream = await client.chat.completions.create({
        ...asked, stream: true, stream_options: { include_usage: true },
      });
      for await (const chunk of stream) {
        said += chunk.choices[0]?.delta?.content ?? "";
        usage = chunk.usage ?? usage;
      }
      assert.equal(said, whole.choices[0].message.content);
      assert.deepEqual(usage, whole.usage);
    },

    async "the stream helper"() {
      const stream = client.chat.completions.stream({ model, messages, max_tokens: 8 });
      const final = await stream.finalChatCompletion();
      assert.equal(final.choices[0].message.role, "assistant");
    },

    async "a stream that is left"() {
      const stream = await client.chat.completions.create({ model, messages, max_tokens: 500, stream: true });
      for await (const chunk of stream) {
        assert.equal(chunk.object, "chat.completion.chunk");
        break;
      }
    },

    async responses() {
      const asked = { model, input: question, max_output_tokens: 8, temperature: 0 };
      const whole = await client.responses.create(asked);
      assert.ok(whole.output_text);
      const types = [];
      for await (const event of await client.responses.create({ ...asked, stream: true })) types.push(event.type);
      assert.equal(types[0], "response.created");
      assert.ok(types.includes("response.output_text.delta"));
      assert.match(types.at(-1), /^response\.(completed|incomplete)$/);
    },

    async errors() {
      const refused = client.chat.completions.create({ model: "없음", messages });
      await assert.rejects(refused, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
    },
  },

  tools: {
    async "called whole and in a stream"() {
      const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
      const whole = await client.chat.completions.create({ model, messages, tools });
      assert.deepEqual(cities(whole.choices[0].message.tool_calls), ["서울", "부산"]);
      assert.equal(whole.choices[0].finish_reason, "tool_calls");
      const streamed = await client.chat.completions.stream({ model, messages, tools }).finalChatCompletion();
      assert.deepEqual(cities(streamed.choices[0].message.tool_calls), ["서울", "부산"]);
    },

    async "run until the answer"() {
      const asked = [];
      const tool = {
        type: "function",
        function: {
          name: "get_weather", parameters, parse: JSON.parse,
          function: ({ city }) => (asked.push(city), "맑음"),
        },
      };
      for (const stream of [false, true]) {
        const runner = client.chat.completions.runTools({ model, messages, tools: [tool], stream });
        assert.equal(await runner.finalContent(), answer);
      }
      assert.deepEqual(asked, ["서울", "부산", "서울", "부산"]);
    },

    async responses() {
      const tools = [{ type: "function", name: "get_weather", parameters, strict: true }];
      const whole = await client.responses.create({ model, input: question, tools });
      const calls = whole.output.filter((item) => item.type === "function_call");
      assert.deepEqual(cities(calls), ["서울", "부산"]);
      const results = calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: "맑음" }));
      const input = [{ role: "user", content: question }, ...whole.output, ...results];
      assert.equal((await client.responses.create({ model, input, tools })).output_text, answer);
    },
  },

  reasoning: {
    async "apart from the content"() {
      const { message } = (await client.chat.completions.create({ model, messages })).choices[0];
      assert.deepEqual([message.reasoning, message.content], [reasoning, answer]);
      let [thought, said] = ["", ""];
      for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
        thought += chunk.choices[0].delta.reasoning ?? "";
        said += chunk.choices[0].delta.content ?? "";
      }
      assert.deepEqual([thought, said], [reasoning, answer]);
    },
  },
};

(async () => {
  let failed = 0;
  for (const [name, check] of Object.entries(checks[process.argv[2]])) {
    try {
      await check();
      console.log("passed", name);
    } catch (error) {
      failed += 1;
      console.log("FAILED", name, error);
    }
  }
  process.exitCode = failed ? 1 : 0;
})();
