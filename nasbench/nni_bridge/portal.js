'use strict';
// Loaded into NNI's manager by NODE_OPTIONS, see portal.py. Left to itself the manager listens on every interface, and
// goes on starting trials after the process that started it has died.
const net = require('node:net');

const host = process.env.NASBENCH_PORTAL_HOST;
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

const parent = process.ppid;
const watch = setInterval(() => {
  if (process.ppid !== parent) {
    clearInterval(watch);
    process.kill(process.pid, 'SIGTERM');
  }
}, 1000);
watch.unref();
