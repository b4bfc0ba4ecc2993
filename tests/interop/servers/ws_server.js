// A server built on Node's ws: see ../README.md for the paths that it serves.
'use strict';

const fs = require('fs');
const http = require('http');
const https = require('https');
const { WebSocketServer } = require('ws');

const SUBPROTOCOLS = ['chat.v2', 'chat.v1'];
const FRAGMENT = 1000; // bytes
const REFUSAL = 'Not today: the reason is ünknown.\n';
const RESET = { serverNoContextTakeover: true, clientNoContextTakeover: true };
const SMALL = { serverMaxWindowBits: 9, clientMaxWindowBits: 9 };
const DEFLATE = { default: {}, reset: RESET, small: SMALL, 'small-reset': { ...SMALL, ...RESET } };

const say = (object) => process.stdout.write(JSON.stringify(object) + '\n');

function echo(ws) {
  ws.on('message', (data, binary) => ws.send(data, { binary }));
}

function echoFragments(ws) {
  ws.on('message', (data, binary) => {
    let start = 0;
    for (; start + FRAGMENT < data.length; start += FRAGMENT) {
      ws.send(data.subarray(start, start + FRAGMENT), { binary, fin: false });
      ws.ping('between fragments');
    }
    ws.send(data.subarray(start), { binary, fin: true });
  });
}

function ping(ws) {
  ws.on('message', (data) => ws.ping(data));
  ws.on('pong', (data) => ws.send('pong ' + data));
}

function burst(ws, query) {
  for (let number = 0; number < Number(query.get('count')); number++) ws.send(String(number));
  ws.close(1000);
}

function pairs(list) {
  return list.flatMap((name, i) => (i % 2 ? [] : [[name, list[i + 1]]]));
}

const HANDLERS = {
  '/echo': echo,
  '/fragments': echoFragments,
  '/close': (ws, query) =>
    query.has('code') ? ws.close(Number(query.get('code')), query.get('reason')) : ws.close(),
  '/burst': burst,
  '/drop': (ws) => ws.on('message', () => ws.terminate()),
  '/ping': ping,
  '/request': (ws, query, request) =>
    ws.send(JSON.stringify({ target: request.url, headers: pairs(request.rawHeaders) })),
  '/subprotocols': echo,
  '/deflate': echo,
};

function webSocketServer(name, subprotocols) {
  const chosen = (offered) => SUBPROTOCOLS.find((name) => subprotocols && offered.has(name)) || false;
  return new WebSocketServer({
    noServer: true,
    perMessageDeflate: { threshold: 0, ...DEFLATE[name] },
    maxPayload: 2 ** 23,
    handleProtocols: chosen,
  });
}

const servers = new Map();
for (const name of Object.keys(DEFLATE)) servers.set(name, webSocketServer(name, false));
servers.set('subprotocols', webSocketServer('default', true));

function refuse(socket, query) {
  const status = Number(query.get('status'));
  const body = REFUSAL.repeat(Number(query.get('times') || 1));
  const head = [
    `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}`,
    'X-Why: interop',
    'Set-Cookie: a=1',
    'Set-Cookie: b=2',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
  ];
  socket.on('error', () => {}); // clients don't read on forever
  socket.end(head.join('\r\n') + '\r\n\r\n' + body);
}

function upgrade(request, socket, head) {
  const { pathname, searchParams: query } = new URL(request.url, 'ws://localhost');
  if (pathname === '/refuse') return refuse(socket, query);
  const name = pathname === '/subprotocols' ? 'subprotocols' : query.get('as') || 'default';
  servers.get(name).handleUpgrade(request, socket, head, (ws) => {
    ws.on('error', () => {}); // followed by 'close'
    ws.on('close', (code, reason) => {
      if (query.has('tag')) say({ closed: query.get('tag'), code, reason: String(reason) });
    });
    HANDLERS[pathname](ws, query, request);
  });
}

const pem = fs.readFileSync(process.argv[2]);
const plain = http.createServer().on('upgrade', upgrade);
const tls = https.createServer({ cert: pem, key: pem }).on('upgrade', upgrade);
plain.listen(0, '127.0.0.1', () =>
  tls.listen(0, '127.0.0.1', () =>
    say({ ports: { ws: plain.address().port, wss: tls.address().port } })
  )
);
