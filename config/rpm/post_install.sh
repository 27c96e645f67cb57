getent passwd gms-recorder >/dev/null ||
    useradd --system --user-group --home-dir /var/lib/gms-recorder --no-create-home --shell /sbin/nologin gms-recorder
# Keys and credentials lie there.
chgrp gms-recorder /etc/gms-recorder /etc/gms-recorder/gms-recorder.toml
chmod 0750 /etc/gms-recorder
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An upgrade of the package is one of the running program, without a lost request.
    if [ "$1" -gt 1 ] && systemctl --quiet is-active gms-recorder.service; then
        systemctl kill --kill-who=main --signal=USR2 gms-recorder.service
    fi
fi
