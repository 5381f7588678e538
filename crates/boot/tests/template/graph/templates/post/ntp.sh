{% include "post/header.sh" %}
cat > /etc/chrony/chrony.conf <<'END'
{% for mirror in mirrors %}
server {{ mirror.peer }} iburst
{% endfor %}
END
