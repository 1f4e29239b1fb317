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
