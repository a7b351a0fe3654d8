#!/usr/bin/env bash
# usage: check_op_peers.sh ROOT DIRIGO
# tools/peers/check_ops.py, which needs PyTorch to run, has a peer for every operation of the op list and for no other.
set -euo pipefail
cd "$1"
diff --label 'dirigo trace --list' --label tools/peers/check_ops.py -u \
  <("$2" trace --list | awk '{ print $1 }' | sort) \
  <(sed -nE 's/^@op\("([a-z_0-9]+)".*/\1/p' tools/peers/check_ops.py | sort)
