if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now gms-recorder.service gms-recorder.socket
fi
