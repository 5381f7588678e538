# A BitTorrent client on libtorrent: lt.py TORRENT DIRECTORY ADDRESS PORT seed|leech MARK
# Writes the time into MARK when it has everything, and goes on serving until it is killed.
import sys
import time

import libtorrent as lt

torrent, directory, address, port, role, mark = sys.argv[1:7]
session = lt.session({
    "listen_interfaces": f"{address}:{port}",
    "outgoing_interfaces": address,
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    # TCP without obfuscation is what it is fastest with on a LAN.
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "allow_multiple_connections_per_ip": True,
    "unchoke_slots_limit": -1,
    "min_announce_interval": 3,
    "min_reconnect_time": 1,
    "peer_connect_timeout": 3,
    "connection_speed": 100,
    "aio_threads": 2,
    "hashing_threads": 1,
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
})
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = directory
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
if role == "seed":
    params.flags |= lt.torrent_flags.seed_mode
handle = session.add_torrent(params)
waiting = role != "seed"
while True:
    session.wait_for_alert(100)
    session.pop_alerts()
    if waiting and handle.status().is_seeding:
        with open(mark, "w") as file:
            file.write(f"{time.time():.3f}\n")
        waiting = False
