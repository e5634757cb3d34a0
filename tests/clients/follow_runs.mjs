// Follows runs with headwater.js, and prints what each shows.
//
// node follow_runs.mjs MODULE URLS
const [module, urls] = process.argv.slice(2);
const { followRun } = await import(module);

const results = await Promise.all(
  JSON.parse(urls).map(async (url) => {
    const events = [];
    const texts = [];
    const run = followRun(url, {
      onEvent: (name, data) => events.push([name, data]),
      onChange: ({ text }) => texts.push(text),
    });
    try {
      const { text, state, result, error } = await run.ended;
      return { url, text, state, result, error, events, grows: texts.every((one) => text.startsWith(one)) };
    } catch ({ message, status }) {
      return { url, refused: status, message };
    }
  }),
);
process.stdout.write(JSON.stringify(results));
process.exit();
