#!/bin/sh
# Stands in for p2pinstd in a scout that a test boots: says on the console what it finds.

[ "$1" = scout ] || exit 9
if [ ! -e /run/lived ]; then
    : >/run/lived
    echo "STAND-IN first life"
    exit 7
fi
trap 'echo "STAND-IN was told to end"; exit 0' TERM

# by their paths, as p2pinstd does: busybox's shell takes its own programs for a bare name
at() { for dir in /usr/sbin /usr/bin; do [ ! -x $dir/$1 ] || echo $dir/$1; done; }
for name in sfdisk mount umount losetup wipefs blkid tar mkswap lsblk; do eval "$name=$(at $name)"; done

ok() {
    what=$1
    shift
    if "$@" >/tmp/out 2>&1; then echo "STAND-IN $what ok"; else
        echo "STAND-IN $what failed with $?"
        head -n 20 /tmp/out
    fi
}

part() { printf 'label: gpt\nsize=64M, type=U\nsize=300M\nsize=300M\nsize=200M, type=linux\nsize=64M, type=swap\n' | $sfdisk -q /dev/vda && [ -b /dev/vda5 ]; }
try_on() { mkdir -p /mnt/x && $mount "$1" /mnt/x && echo some >/mnt/x/file && $umount /mnt/x; }
ext4() { mkfs.ext4 -q -L root /dev/vda2 && try_on /dev/vda2 && e2fsck -fn /dev/vda2; }
xfs() { mkfs.xfs -q -f /dev/vda3 && try_on /dev/vda3 && xfs_repair -n /dev/vda3; }
vfat() { mkfs.vfat -n ESP /dev/vda1 && try_on /dev/vda1; }
btrfs_() { mkfs.btrfs -q -f /dev/vda4 && btrfs check /dev/vda4 && try_on /dev/vda4; }
swap() { $mkswap /dev/vda5 && swapon /dev/vda5 && swapoff /dev/vda5; }
lvm_() { pvcreate -q /dev/vdb && vgcreate -q pool /dev/vdb && lvcreate -q -L 128M -n vol pool && mkfs.ext4 -q /dev/pool/vol && try_on /dev/pool/vol && vgchange -an pool; }
blkid_() { [ "$($blkid -o value -s TYPE /dev/vda2)" = ext4 ] && [ "$($blkid -o value -s LABEL /dev/vda2)" = root ]; }
wipefs_() { $wipefs -q -a /dev/vda4 && [ -z "$($blkid -o value -s TYPE /dev/vda4)" ]; }
tar_() {
    mkdir -p /tmp/t && echo x >/tmp/t/f && chown 1234:99 /tmp/t/f &&
        $tar --numeric-owner --xattrs --acls -C /tmp -I zstd -cf /tmp/t.tar.zst t && rm -r /tmp/t &&
        $tar --numeric-owner --xattrs --acls -C /tmp -I zstd -xpf /tmp/t.tar.zst && [ "$(stat -c %u:%g /tmp/t/f)" = 1234:99 ]
}
loop() { truncate -s 8M /tmp/img && l=$($losetup -f --show /tmp/img) && $losetup -d "$l"; }

echo "STAND-IN up $(cut -d' ' -f1 /proc/uptime)"
echo "STAND-IN cmdline $(cat /proc/cmdline)"
echo "STAND-IN disks $($lsblk -dno NAME | grep -v loop | tr '\n' ' ')"
ok cli sh -c '[ "$(p2pinst a b c)" = 8 ]'
ok extra grep -qx 'public data' /etc/p2pinst/cluster.cbor
ok modules sh -c 'lsmod | grep -q ^virtio_rng'
if grep -q p2pinst.test=tools /proc/cmdline; then
    ok sfdisk part
    ok ext4 ext4
    ok xfs xfs
    ok vfat vfat
    ok btrfs btrfs_
    ok swap swap
    ok lvm lvm_
    ok blkid blkid_
    ok wipefs wipefs_
    ok tar tar_
    ok zstd zstd --version
    ok losetup loop
fi
if [ -e /sys/class/net/eth0 ]; then
    waited=0
    until [ -e /run/scout/net/eth0.lease ] || [ $waited -ge 20 ]; do
        sleep 1
        waited=$((waited + 1))
    done
    sed 's/^/STAND-IN lease /' /run/scout/net/eth0.lease
fi
if [ -d /sys/firmware/efi ]; then
    ok efivars efibootmgr
    [ -e /run/scout/loader ] || echo "STAND-IN loader none"
fi
free -m
ls -l /run/scout
echo "STAND-IN waits"
while :; do sleep 1; done
