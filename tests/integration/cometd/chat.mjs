// node chat.mjs URL TRANSPORT,…
// One chat as a customer has it, in legs: each over its transport, with a session of its own, which is given the whole
// transcript again. Then a message under a session that no node knows. Prints what was delivered as one JSON object.
import { adapt } from 'cometd-nodejs-client';
import { CometD } from 'cometd';
import WebSocket from 'ws';

adapt();
const [, , url, legs] = process.argv;
const channel = '/service/chatV2/customer-support';
const chat = { indices: new Set(), deliveries: 0, ended: false };

const open = async transport => {
    const client = new CometD();
    client.unregisterTransport(transport === 'websocket' ? 'long-polling' : 'websocket');
    client.configure({ url, maxNetworkDelay: 15000 });
    client.addListener(channel, ({ data }) => {
        if (!data?.messages) return; // an acknowledgement
        chat.id ??= data.chatId;
        chat.key ??= data.secureKey;
        chat.deliveries += data.messages.length;
        chat.ended ||= data.chatEnded === true;
        data.messages.forEach(event => chat.indices.add(event.index));
    });
    await new Promise((done, fail) =>
        client.handshake(reply => (reply.successful ? done() : fail(new Error(JSON.stringify(reply))))));
    return client;
};
const say = (client, operation, fields) =>
    new Promise(done => client.publish(channel, { operation, secureKey: chat.key, ...fields }, done));
const until = async happened => {
    for (const from = Date.now(); !happened(); await new Promise(done => setTimeout(done, 5))) {
        if (Date.now() - from > 20000) throw new Error(`too late: ${happened}`);
    }
};

const used = [];
for (const transport of legs.split(',')) {
    const client = await open(transport);
    used.push(client.getTransport().type);
    if (chat.key) {
        const before = chat.deliveries;
        await say(client, 'requestNotifications', { transcriptPosition: 0 });
        await until(() => chat.deliveries > before);
    } else {
        await say(client, 'requestChat', { nickname: 'Anna', emailAddress: 'anna@example.com', subject: 'Hi' });
        await until(() => chat.key);
    }
    for (let i = 0; i < 5; i++) {
        const before = chat.deliveries;
        await say(client, 'sendMessage', { message: `${transport} ${i} ${'and so on '.repeat(i * 50)}` });
        await until(() => chat.deliveries > before);
    }
    if (used.length === legs.split(',').length) {
        await say(client, 'disconnect', {});
        await until(() => chat.ended);
    }
    await new Promise(done => client.disconnect(done));
}

const stranger = new WebSocket(url);
await new Promise(done => stranger.on('open', done));
stranger.send(JSON.stringify({ channel, id: '1', clientId: 'nobody', data: { operation: 'sendMessage', message: 'x' } }));
const refused = await new Promise(done => stranger.on('message', text => done(JSON.parse(text)[0].error)));
stranger.close();

console.log(JSON.stringify({ ...chat, indices: [...chat.indices].sort((a, b) => a - b), used, refused }));
process.exit(0);
