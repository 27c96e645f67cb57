// node server.mjs faye|faye-deflate|cometd
// A Bayeux server of other hands on a free port of the loopback address, which it prints. What is published on /chat/1 is
// delivered on Chat V2's channel by faye (long polling and WebSocket), on /chat/1 itself by CometD (long polling only).
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const kind = process.argv[2];

const listen = server => server.listen(0, '127.0.0.1', () => console.log(server.address().port));

if (kind === 'cometd') {
    // Both clients of the test share one cookie: by default one of them would be told to poll every 2 s instead.
    const options = { maxSessionsPerBrowser: -1 };
    listen(createServer(require('cometd-nodejs-server').createCometDServer(options).handle));
} else {
    const faye = require('faye');
    const bayeux = new faye.NodeAdapter({ mount: '/genesys/cometd', timeout: 10 });
    if (kind === 'faye-deflate') bayeux.addWebsocketExtension(require('permessage-deflate'));
    bayeux.addExtension({
        outgoing(message, callback) {
            if (message.channel === '/chat/1' && message.data) message.channel = '/service/chatV2/customer-support';
            callback(message);
        },
    });
    const server = createServer();
    bayeux.attach(server);
    listen(server);
}
