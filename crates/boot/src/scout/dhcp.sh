#!/bin/sh
# Called by udhcpc with what a DHCP server said. The lease is kept for p2pinstd in /run/scout/net/LINK.lease.

RUN=/run/scout
lease=$RUN/net/$interface.lease

say() {
    read -r up _ </proc/uptime
    for console in $(cat /sys/class/tty/console/active); do
        echo "scout [$up]: $interface: $*" | tr -cd ' -~\n' >"/dev/$console"
    done 2>/dev/null
}

resolvers() {
    for file in "$RUN"/net/*.lease; do
        [ -e "$file" ] || continue
        for server in $(sed -n 's/^dns=//p' "$file"); do echo "nameserver $server"; done
    done | sort -u | head -n 3 >$RUN/resolv.conf.new
    mv $RUN/resolv.conf.new $RUN/resolv.conf
}

bound() {
    number=$(cat "/sys/class/net/$interface/ifindex")
    if ! ip -4 addr show dev "$interface" | grep -q " $ip/"; then
        ip -4 addr flush dev "$interface"
        ip addr add "$ip/${mask:-24}" dev "$interface"
        say "$ip/${mask:-24} from ${serverid:-an unnamed server}, next server ${siaddr:-none}"
    fi
    # RFC 3442: with classless routes the router option is ignored
    if [ -n "$staticroutes" ]; then
        # shellcheck disable=SC2086
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            via="via $2"
            [ "$2" != 0.0.0.0 ] || via=
            # shellcheck disable=SC2086
            ip route replace "$1" $via dev "$interface" metric $((100 + number))
            shift 2
        done
    else
        for gateway in $router; do
            ip route replace default via "$gateway" dev "$interface" metric $((100 + number))
            break
        done
    fi
    for name in ip mask router dns domain hostname ntpsrv serverid siaddr sname boot_file tftp bootfile; do
        eval "value=\$$name"
        [ -z "$value" ] || printf '%s=%s\n' $name "$(printf %s "$value" | tr -cd ' -~' | cut -c1-255)"
    done >"$lease.new"
    mv "$lease.new" "$lease"
    resolvers
}

case $1 in
bound | renew) bound ;;
deconfig)
    rm -f "$lease"
    ip -4 addr flush dev "$interface"
    resolvers
    ;;
leasefail) say "no answer from a DHCP server; trying again" ;;
nak) say "a DHCP server withdrew the address" ;;
esac
