# Shared by testnet/demo and testnet/check: sourced, never run.

# The same profile for both, so that they share what can be shared of a build.
profile=${P2PINST_PROFILE:-dev}

# need PROGRAM:PACKAGE... installs the Debian packages of those programs that are missing.
need() {
    local want missing=()
    export PATH="$PATH:/usr/sbin:/sbin"
    for want in "$@"; do
        type -P "${want%%:*}" >/dev/null || missing+=("${want#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if [ "$(id -u)" != 0 ]; then
        echo "missing, and only root can install: apt-get install ${missing[*]}" >&2
        return 0
    fi
    echo "installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    # The lists that are there may do; they are refreshed only if they do not.
    apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 && return 0
    apt-get update -qq >/dev/null
    apt-get install -y -qq "${missing[@]}" >/dev/null || {
        echo "cannot install ${missing[*]}: install them by hand, and run this again" >&2
        return 1
    }
}

# What p2pinst is compared with. Without these, the tests and benchmarks that need them say SKIPPED.
need_rivals() (
    policy=/usr/sbin/policy-rc.d
    # Debian starts services as soon as they are installed, unless this says no.
    if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    need nginx:nginx-light curl:curl rsync:rsync aria2c:aria2 opentracker:opentracker \
        mktorrent:mktorrent udp-sender:udpcast || true
    /usr/bin/python3 -c 'import libtorrent' 2>/dev/null || need python3-with-libtorrent:python3-libtorrent || true
)

# Machines with nothing on them, what they are installed with, and their controllers. Without these, the tests that need them say
# SKIPPED. qemu-utils is named beside qemu-system-x86: where a backport of it is installed, the two only go together.
need_machines() (
    packages=(qemu-system-x86 qemu-utils ovmf ipxe ipxe-qemu dnsmasq-base openipmi ipmitool fdisk gdisk
        dosfstools mtools xfsprogs btrfs-progs lvm2 extlinux systemd-boot-efi tftp-hpa atftp kea-admin wakeonlan
        libvirt-clients acl attr libcap2-bin efibootmgr strace binutils zstd python3-yaml python3-venv curl)
    for package in "${packages[@]}"; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -q ^installed || missing=1
    done
    [ -n "${missing-}" ] && [ "$(id -u)" = 0 ] || return 0
    echo "installing machines, tools for disks and controllers" >&2
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null || true
    version=$(apt-cache policy qemu-system-x86 | sed -n 's/ *Candidate: //p')
    apt-get install -y -qq --no-install-recommends --allow-downgrades "${packages[@]/%qemu-utils/qemu-utils=$version}" \
        >/dev/null || echo "cannot install all of ${packages[*]}: some tests will say SKIPPED" >&2
)

# What the compiler and the linker cannot do without.
need_rust() {
    command -v cargo >/dev/null || {
        echo "cargo is missing: install Rust, see https://rustup.rs" >&2
        return 1
    }
    need cc:gcc
}

build() {
    need_rust
    cargo build --quiet --locked --workspace --bins --profile "$profile"
}

target_dir() {
    cargo metadata --locked --no-deps --format-version 1 |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

profile_dir() {
    if [ "$profile" = dev ]; then echo debug; else echo "$profile"; fi
}
