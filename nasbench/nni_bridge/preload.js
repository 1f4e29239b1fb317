'use strict';
// Loaded by NODE_OPTIONS into NNI's manager, see portal.py, and into its trial keeper on another machine, see
// places.py. Left to themselves both listen on every interface, for anybody.
const net = require('node:net');

const manager = process.env.NASBENCH_PORTAL_HOST; // where the manager shall listen; a keeper has none
const host = manager || '127.0.0.1';
const inherited = process.env.NASBENCH_NODE_OPTIONS;
// Trials and the tuner are children of this process and shall not load this file.
delete process.env.NASBENCH_PORTAL_HOST;
delete process.env.NASBENCH_NODE_OPTIONS;
if (inherited) {
  process.env.NODE_OPTIONS = inherited;
} else {
  delete process.env.NODE_OPTIONS;
}

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === 'number' && typeof args[1] !== 'string') {
    args.splice(1, 0, host);
  } else if (args[0] !== null && typeof args[0] === 'object' && args[0].port !== undefined && !args[0].host) {
    args[0] = { ...args[0], host };
  }
  return listen.apply(this, args);
};

if (manager) {
  // Another site's page, in a browser on this machine, is not to reach it: neither by a name of that site that leads
  // here, nor by a form or script that is sent from there.
  const http = require('node:http');
  const own = require('node:os').hostname().toLowerCase();
  const isOwn = (name) =>
    /^(localhost|\[::1\]|127(\.[0-9]+){3})$/.test(name) || // nniManagerIp may be any loopback address
    (manager === '0.0.0.0' && (/^[0-9.]+$|^\[/.test(name) || name === own || name.startsWith(`${own}.`)));
  const isKnown = ({ host: asked = '', origin }) =>
    isOwn(asked.toLowerCase().replace(/:[0-9]*$/, '')) && (origin === undefined || origin === `http://${asked}`);
  const emit = http.Server.prototype.emit;
  http.Server.prototype.emit = function (event, request, answer, ...rest) {
    if ((event !== 'request' && event !== 'upgrade') || isKnown(request.headers)) {
      return emit.call(this, event, request, answer, ...rest);
    }
    if (event === 'request') {
      answer.writeHead(403).end();
    } else {
      answer.destroy();
    }
    return true;
  };

  // It would go on starting trials after the process that started it has died.
  const parent = process.ppid;
  const watch = setInterval(() => {
    if (process.ppid !== parent) {
      clearInterval(watch);
      process.kill(process.pid, 'SIGTERM');
    }
  }, 1000);
  watch.unref();
}
