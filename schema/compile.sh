#!/bin/sh
# Compiles the schema into the requests that build.rs generates Rust from. Needs `capnp` (Debian: capnproto); building
# clusterctl does not, since the requests are committed. Run it after every change of a schema file.
set -eu
cd "$(dirname "$0")"
mkdir -p compiled
for file in *.capnp; do
  capnp compile -I. -o- "$file" > "compiled/${file%.capnp}.request"
done
sha256sum -- *.capnp capnp/*.capnp > compiled/sha256
