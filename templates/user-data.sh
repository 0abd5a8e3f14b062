#!/bin/sh
# First boot of a builder or tester. A machine that nobody ends ends itself: its shutdown behaviour is "terminate".
shutdown -P +@MINUTES@

# Debian's EC2 images come without the SSM agent (Systems Manager User Guide, "Manually installing SSM Agent on Debian").
installed() { systemctl cat amazon-ssm-agent.service >/dev/null 2>&1 || [ -e /snap/bin/amazon-ssm-agent ]; }
on_ec2() { grep -qs 'Amazon EC2' /sys/class/dmi/id/sys_vendor; }
if on_ec2 && ! installed && [ -e /etc/debian_version ]; then
    package=/run/amazon-ssm-agent.deb
    url=https://s3.@REGION@.amazonaws.com/amazon-ssm-@REGION@/latest/debian_$(dpkg --print-architecture)/amazon-ssm-agent.deb
    python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(sys.argv[1], sys.argv[2])' "$url" "$package" &&
        dpkg -i "$package" && rm -f "$package"
fi
