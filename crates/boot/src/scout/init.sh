#!/bin/sh
# The scout's first process: finds the hardware, brings the links up, keeps p2pinstd running, and ends nothing by itself.
# What it finds out is in /run/scout (see the module scout::hints). Nothing here decides about trust.

export PATH=/usr/sbin:/usr/bin HOME=/root TERM=linux LC_ALL=C
RUN=/run/scout

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid,mode=755 dev /dev 2>/dev/null || mount -t tmpfs -o nosuid,mode=755 dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,gid=5,mode=620 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 run /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmp /tmp
mkdir -p $RUN/net /run/lock /var/lib/p2pinst
: >$RUN/resolv.conf

# every console that the kernel really has; on a machine without a serial line there is none
consoles=
for console in $(cat /sys/class/tty/console/active); do consoles="$consoles /dev/$console"; done
[ -n "$consoles" ] || consoles=/dev/console

say() {
    read -r up _ </proc/uptime
    for console in $consoles; do echo "scout [$up]: $*" >"$console"; done 2>/dev/null
}

# whether the kernel's command line has the word $1, or $1=VALUE with a value other than 0
told() {
    for word in $(cat /proc/cmdline); do
        case $word in "$1=0") ;; "$1" | "$1="*) return 0 ;; esac
    done
    return 1
}

debug() { [ -z "$debugging" ] || say "$*"; }
random() { echo $(($(od -An -N2 -tu2 /dev/urandom) % $1)); }

debugging=
if told p2pinst.debug; then
    debugging=1
    dmesg -n 7
fi
say "p2pinst scout on Linux $(uname -r)"
hostname scout
ip link set lo up

# Loads what the devices ask for by their modalias. True when there was something new.
echo - >$RUN/modalias.seen
coldplug() {
    find /sys/devices -name modalias -exec cat {} + 2>/dev/null | sort -u >$RUN/modalias.now
    awk 'NR == FNR { seen[$0]; next } !($0 in seen)' $RUN/modalias.seen $RUN/modalias.now >$RUN/modalias.new
    [ -s $RUN/modalias.new ] || return 1
    cat $RUN/modalias.new >>$RUN/modalias.seen
    tr '\n' '\0' <$RUN/modalias.new | xargs -0 modprobe -abq 2>/dev/null
    return 0
}

# Keeps an address on the link $1. The waits differ from machine to machine: a whole rack starts at one time.
link() {
    ip link set "$1" up
    usleep $(($(random 500) * 1000))
    until [ "$(cat "/sys/class/net/$1/carrier" 2>/dev/null)" = 1 ]; do
        [ -d "/sys/class/net/$1" ] || return
        sleep 0.2
    done
    debug "$1 has a carrier"
    while [ -d "/sys/class/net/$1" ]; do
        udhcpc -f -i "$1" -s /usr/lib/scout/dhcp -V p2pinst-scout -t 6 -T 2 -A $((3 + $(random 8))) \
            -O tftp -O bootfile -O ntpsrv -O staticroutes >/dev/null 2>&1
        sleep $((1 + $(random 4)))
    done
}

# Starts on each Ethernet link that is a device and has not been started.
links() {
    for dir in /sys/class/net/*; do
        name=${dir##*/}
        [ -e "$dir/device" ] && [ ! -e "$dir/phy80211" ] && [ "$(cat "$dir/type")" = 1 ] || continue
        [ ! -e "$RUN/net/$name.up" ] || continue
        : >"$RUN/net/$name.up"
        debug "link $name $(cat "$dir/address")"
        link "$name" &
    done
}

# Devices that come late: firmware that takes its time, USB, a card that was loaded a moment ago.
watch() {
    pause=1
    while :; do
        sleep $pause
        if coldplug; then pause=1; elif [ $pause -lt 16 ]; then pause=$((pause * 2)); fi
        links
    done
}

# shellcheck disable=SC2046
modprobe -aq $(cat /usr/lib/scout/modules) 2>/dev/null
passes=0
while [ $passes -lt 8 ] && coldplug; do
    links
    passes=$((passes + 1))
done
links
watch &

firmware=bios
if [ -d /sys/firmware/efi ]; then
    firmware=uefi
    mount -t efivarfs -o nosuid,nodev,noexec efivarfs /sys/firmware/efi/efivars 2>/dev/null
    # from where firmware loaded the image: systemd-stub knows since version 258
    cat /sys/firmware/efi/efivars/LoaderDeviceURL-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f >$RUN/loader 2>/dev/null || rm $RUN/loader
fi
{
    echo "kernel=$(uname -r)"
    echo "firmware=$firmware"
    echo "disks=$(ls /sys/block | grep -Ev '^(loop|ram|zram|dm-|md|sr|fd)' | tr '\n' ' ')"
} >$RUN/boot
say "started by $firmware; disks: $(sed -n 's/^disks=//p' $RUN/boot)"

# the power button, and a controller that asks for a soft shutdown
acpid -f >/dev/null 2>&1 &

if told p2pinst.shell; then
    for console in $consoles; do
        [ "$console" != /dev/tty0 ] || console=/dev/tty1
        while :; do
            setsid -c sh -l <"$console" >"$console" 2>&1
            sleep 1
        done &
    done
fi

# what the daemon says goes to every console; this side keeps the pipe open between two of its lives
mkfifo -m 600 $RUN/output
exec 3<>$RUN/output
# shellcheck disable=SC2086
tee $consoles <&3 >/dev/null 2>&1 &

pause=1
while :; do
    say "starting p2pinstd"
    begun=$(cut -d. -f1 /proc/uptime)
    /usr/sbin/p2pinstd scout </dev/null >&3 2>&1 3>&- &
    daemon=$!
    echo $daemon >$RUN/pid
    wait $daemon
    code=$?
    [ $(($(cut -d. -f1 /proc/uptime) - begun)) -lt 60 ] || pause=1
    say "p2pinstd ended with status $code; again in $pause s"
    sleep $pause
    [ $pause -ge 30 ] || pause=$((pause * 2))
done
