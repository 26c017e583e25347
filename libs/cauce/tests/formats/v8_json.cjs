// Answers, one JSON line each, what V8 makes of values and texts. Values come tagged, since JSON is what is tested.
const value = ([tag, content]) => {
  switch (tag) {
    case 'text': return String.fromCharCode(...content); // UTF-16 units: lone surrogates survive
    case 'number': return new DataView(Uint8Array.from(Buffer.from(content, 'hex')).buffer).getFloat64(0);
    case 'plain': return content; // null, true, false
    case 'date': return new Date(content);
    case 'array': return content.map(value);
    case 'object': return Object.fromEntries(content.map(([key, member]) => [value(key), value(member)]));
  }
};

const answers = {
  stringify: (tagged) => JSON.stringify(value(tagged)),
  parse: (text) => {
    try {
      return [JSON.stringify(JSON.parse(text))];
    } catch {
      return [];
    }
  },
  sorted: (keys) => keys.sort((a, b) => ('' + a).localeCompare(b)),
};

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const [question, argument] = JSON.parse(line);
  process.stdout.write(JSON.stringify(answers[question](argument)) + '\n');
});
