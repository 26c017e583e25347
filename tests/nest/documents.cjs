// Runs the TypeScript of a document inside a real NestJS. Told over stdin, one JSON line a command; tells over stdout.
// Environment: NEST_HOME and TYPESCRIPT_HOME (folders with node_modules), REDIS_HOST, REDIS_PORT, REDIS_PASS.
const { createRequire } = require('node:module');
const path = require('node:path');
const readline = require('node:readline');

const nest = createRequire(path.join(process.env.NEST_HOME, 'package.json'));
const ts = createRequire(path.join(process.env.TYPESCRIPT_HOME, 'package.json'))('typescript');
nest('reflect-metadata');
const { Module } = nest('@nestjs/common');
const { NestFactory } = nest('@nestjs/core');
const { ClientProxyFactory, Transport } = nest('@nestjs/microservices');
const { firstValueFrom } = nest('rxjs');

const compilerOptions = {
  module: ts.ModuleKind.CommonJS,
  target: ts.ScriptTarget.ES2022,
  experimentalDecorators: true,
};

function load(source) {
  const { outputText, diagnostics } = ts.transpileModule(source, { compilerOptions, reportDiagnostics: true });
  if (diagnostics.length) throw new Error(ts.flattenDiagnosticMessageText(diagnostics[0].messageText, '\n'));
  const exports = {};
  new Function('exports', 'require', outputText)(exports, nest);
  return exports;
}

const tell = (message) => process.stdout.write(JSON.stringify(message) + '\n');

const commands = {
  async listen({ controller, options }) {
    const [Controller] = Object.values(load(controller));
    class Root {}
    Module({ controllers: [Controller] })(Root);
    const [redis] = Object.values(load(options));
    const app = await NestFactory.createMicroservice(Root, { transport: Transport.REDIS, options: redis });
    await app.listen();
  },
  async publish({ bus, options, event }) {
    const [Bus] = Object.values(load(bus));
    const [redis] = Object.values(load(options));
    const client = ClientProxyFactory.create({ transport: Transport.REDIS, options: redis });
    await client.connect();
    new Bus(client).publish(event);
    await firstValueFrom(client.emit('end.of-example', {}));
    await client.close();
  },
};

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const { command, ...argument } = JSON.parse(line);
  try {
    await commands[command](argument);
    tell({ done: command });
  } catch (error) {
    tell({ failed: `${error}` });
  }
}).on('close', () => process.exit(0));
