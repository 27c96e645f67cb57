// node client.mjs URL websocket|long-polling COUNT
// The CometD client publishes COUNT events of one chat, each after the acknowledgement of the one before, and a second one
// receives them. Prints what became of them as one JSON object.
import { adapt } from 'cometd-nodejs-client';
import { CometD } from 'cometd';

adapt();
const [, , url, transport, count] = process.argv;

const open = async () => {
    const client = new CometD();
    client.unregisterTransport(transport === 'websocket' ? 'long-polling' : 'websocket');
    client.configure({ url, maxNetworkDelay: 15000 });
    await new Promise((done, fail) =>
        client.handshake(reply => (reply.successful ? done() : fail(new Error(JSON.stringify(reply))))));
    return client;
};

const chatId = `chat-${Date.now()}`; // events that nobody has seen
const answer = i => ({
    statusCode: 0, chatId, nextPosition: i + 2,
    messages: [{
        index: i + 1, type: 'Message', utcTime: 1432845088000 + i, from: { participantId: 1, nickname: 'Anna', type: 'Client' },
        // The client deflates from 1 KiB on.
        text: `message ${i} 👩‍👧` + (i % 10 === 0 ? ' and more of it'.repeat(100) : ''),
    }],
});

const [publisher, subscriber] = [await open(), await open()];
const received = [];
const note = message => received.push(message.data.messages[0].index - 1);
await new Promise(done => subscriber.subscribe('/chat/1', note, done));
subscriber.addListener('/service/chatV2/customer-support', note);
const began = performance.now();
let acknowledged = 0;
for (let i = 0; i < +count; i++) {
    await new Promise(done => publisher.publish('/chat/1', answer(i), reply => {
        acknowledged += reply.successful ? 1 : 0;
        done();
    }));
}
while (received.length < +count && performance.now() - began < 30000) await new Promise(done => setTimeout(done, 5));
const ms = performance.now() - began;
await new Promise(done => setTimeout(done, 200)); // none may come twice
const inOrder = received.every((value, i) => value === i);
const used = subscriber.getTransport()?.type;
console.log(JSON.stringify({ acknowledged, received: received.length, inOrder, transport: used, ms: Math.round(ms) }));
await Promise.all([publisher, subscriber].map(client => new Promise(done => client.disconnect(done))));
process.exit(0);
