#!/bin/sh
# The power button: p2pinstd may end what it writes, then the machine goes off.

daemon=$(cat /run/scout/pid 2>/dev/null)
for console in $(cat /sys/class/tty/console/active); do echo "scout: the power button was pressed" >"/dev/$console"; done
if [ -n "$daemon" ] && kill "$daemon" 2>/dev/null; then
    waited=0
    while [ $waited -lt 50 ] && grep -qv '^State:.Z' "/proc/$daemon/status" 2>/dev/null; do
        sleep 0.2
        waited=$((waited + 1))
    done
fi
sync
poweroff -f
