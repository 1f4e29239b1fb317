'use strict';
// Loaded into NNI's trial keeper on a remote machine, see machines.py: what trials there report goes through it, and
// left to itself it listens on every interface, for anybody.
delete process.env.NODE_OPTIONS; // trials are its children and shall not load this file
const net = require('node:net');

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === 'number' && typeof args[1] !== 'string') {
    args.splice(1, 0, '127.0.0.1');
  } else if (args[0] !== null && typeof args[0] === 'object' && args[0].port !== undefined && !args[0].host) {
    args[0] = { ...args[0], host: '127.0.0.1' };
  }
  return listen.apply(this, args);
};
