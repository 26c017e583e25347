// A real NestJS service, told over stdin what to do (one JSON line a command) and telling over stdout what it saw.
// Plain JavaScript: decorators are called as the functions they are, so that nothing has to be compiled.
// Environment: NEST_HOME (a folder with node_modules), REDIS_PORT, REDIS_PASS.
const fs = require('node:fs');
const { createRequire } = require('node:module');
const path = require('node:path');
const readline = require('node:readline');

const nest = createRequire(path.join(process.env.NEST_HOME, 'package.json'));
nest('reflect-metadata');
const { NestFactory } = nest('@nestjs/core');
const { Controller, Inject, Module } = nest('@nestjs/common');
const { ClientsModule, Ctx, EventPattern, MessagePattern, Payload, Transport } = nest('@nestjs/microservices');
const { lastValueFrom, timeout, toArray } = nest('rxjs');

const packageFile = path.join(process.env.NEST_HOME, 'node_modules/@nestjs/microservices/package.json');
const nestVersion = JSON.parse(fs.readFileSync(packageFile)).version;
const redis = { host: '127.0.0.1', port: Number(process.env.REDIS_PORT), password: process.env.REDIS_PASS };
const reconnecting = { ...redis, retryAttempts: 1000, retryDelay: 100 };
const tell = (message) => process.stdout.write(JSON.stringify(message) + '\n');

// --- the publishing side, built as the article builds it: a bus over an injected Redis client ---------------------

class IntegrationEvent {
  constructor(service, name, payload) {
    this.service = service;
    this.name = name;
    this.payload = payload;
    this.id = crypto.randomUUID();
    this.occurredOn = new Date();
  }
}

class UserCreatedEvent extends IntegrationEvent {
  constructor(payload) {
    super('accounts-ms', 'com.clonespotify.accounts.users.integration.user-updated', payload);
  }
}

const PRODUCER = 'REDIS_PRODUCER_CLIENT';

class RedisEventBus {
  constructor(client) {
    this.client = client;
  }

  publish(event) {
    this.client.emit(event.name, event); // the result is ignored, as in the article
    return event;
  }
}
Inject(PRODUCER)(RedisEventBus, undefined, 0);

class PublisherModule {}
Module({
  imports: [
    ClientsModule.registerAsync([
      { name: PRODUCER, useFactory: () => ({ transport: Transport.REDIS, options: reconnecting }) },
    ]),
  ],
  providers: [RedisEventBus],
})(PublisherModule);

let publisher;
const publishing = () => (publisher ??= NestFactory.createApplicationContext(PublisherModule, { logger: false }));

// --- the listening side -------------------------------------------------------------------------------------------

function controllerFor(handlers) {
  class QueueController {}
  for (const [index, { kind, pattern, answer }] of handlers.entries()) {
    const method = `onMessage${index}`;
    QueueController.prototype[method] = function (data, context) {
      tell({ heard: { handler: index, channel: context.getChannel(), data, nothing: data === undefined } });
      return answer;
    };
    const decorator = kind === 'message' ? MessagePattern : EventPattern;
    const descriptor = Object.getOwnPropertyDescriptor(QueueController.prototype, method);
    Reflect.defineMetadata('design:paramtypes', [Object, Object], QueueController.prototype, method);
    decorator(pattern)(QueueController.prototype, method, descriptor);
    Payload()(QueueController.prototype, method, 0);
    Ctx()(QueueController.prototype, method, 1);
  }
  Controller()(QueueController);
  return QueueController;
}

const listening = [];

const commands = {
  async listen({ handlers, wildcards }) {
    class ListeningModule {}
    Module({ controllers: [controllerFor(handlers)] })(ListeningModule);
    const app = await NestFactory.createMicroservice(ListeningModule, {
      transport: Transport.REDIS,
      options: { ...reconnecting, wildcards },
      logger: false,
    });
    await app.listen();
    listening.push(app);
  },
  async deafen() {
    while (listening.length) await listening.pop().close();
  },
  async publishUserCreated({ payload }) {
    const event = (await publishing()).get(RedisEventBus).publish(new UserCreatedEvent(payload));
    return { id: event.id, occurredOn: event.occurredOn };
  },
  async emit({ pattern, data }) {
    const emitted = (await publishing()).get(PRODUCER).emit(pattern, data);
    await lastValueFrom(emitted, { defaultValue: null });
  },
  async send({ pattern, data, limitMs }) {
    const answers = (await publishing()).get(PRODUCER).send(pattern, data);
    try {
      return { answers: await lastValueFrom(answers.pipe(timeout(limitMs), toArray())) };
    } catch (error) {
      return { error: error.name ?? String(error) };
    }
  },
  async channelOf({ patterns }) {
    const client = (await publishing()).get(PRODUCER);
    return patterns.map((pattern) => client.normalizePattern(pattern));
  },
};

process.on('unhandledRejection', (error) => tell({ unhandled: String(error) }));
readline
  .createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const { command, ...argument } = JSON.parse(line);
    try {
      tell({ done: (await commands[command](argument)) ?? null });
    } catch (error) {
      tell({ failed: error.stack ?? String(error) });
    }
  })
  .on('close', () => process.exit(0));
tell({ done: { node: process.version, nest: nestVersion } });
