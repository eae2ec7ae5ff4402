variant() { rm -rf /tmp/v; mkdir /tmp/v; cp -r autohyp .sandbox-gpu /tmp/v; (cd /tmp/v; sed -i "$2" autohyp/execution/sandbox/$1; echo "== $1 $2"; python3 .sandbox-gpu/cu.py); }
variant kernel.py 's/nothing//'
variant supervisor.py 's/    kernel.install_seccomp_filter(program)/    pass/'
variant supervisor.py 's/    kernel.restrict_self(ruleset)/    pass/'
variant supervisor.py 's/    kernel.drop_capabilities()/    pass/'
variant landlock.py 's/access.READ) for path in readable/access.READ_WRITE) for path in ("\/",)/'
variant landlock.py 's/(path, access.DEVICE) for path in (\*DEVICES, \*gpu_devices(spec.gpu_index))/(path, access.READ_WRITE|(1<<15)) for path in ("\/dev","\/proc")/'
variant landlock.py 's/(path, access.DEVICE) for path in (\*DEVICES/(path, access.DEVICE|(1<<14)) for path in ("\/proc", *DEVICES/'
chmod +x .sandbox-gpu/strace
LD_LIBRARY_PATH_OLD=$LD_LIBRARY_PATH
cat > /tmp/st.sh <<X
LD_LIBRARY_PATH=$PWD/.sandbox-gpu/lib exec $PWD/.sandbox-gpu/strace -f -o /tmp/trace env LD_LIBRARY_PATH="$LD_LIBRARY_PATH" python3 .sandbox-gpu/cu.py
X
bash /tmp/st.sh; grep -nE "EPERM|EACCES|EOPNOTSUPP|ENOSYS" /tmp/trace | grep -v ENOENT | cut -c1-220 | tail -40
