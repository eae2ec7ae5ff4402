export PATH=$PWD/.sandbox-gpu:$PATH
ls -l /dev/nvidia* /dev/nvidia-caps 2>&1 | head -20; ldd .sandbox-gpu/bwrap | grep "not found"; uname -r; python3 -c "import sys; print(sys.version, sys.prefix, sys.base_prefix, sys.executable)"
python3 - <<'P'
import sys; sys.path.insert(0,'.')
from autohyp.execution.sandbox import kernel; print('landlock abi', kernel.landlock_abi())
P
timeout 400 python3 .sandbox-gpu/probe.py landlock
mkdir -p /tmp/ct; for b in landlock; do time timeout 60 python3 -m autohyp.testing.sandbox_contract $b /tmp/ct; done
