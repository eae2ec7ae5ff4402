import os, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, os.getcwd())
from autohyp.execution.sandbox.landlock import LandlockSandbox
from autohyp.execution.sandbox.base import *
CODE = r"""
import ctypes
c=ctypes.CDLL('libcuda.so.1'); n=ctypes.c_int()
print('cuInit', c.cuInit(0), c.cuDeviceGetCount(ctypes.byref(n)), n.value)
"""
d=Path(tempfile.mkdtemp()); log=os.memfd_create('l')
env={"PATH":os.environ["PATH"],"HOME":str(d),"TMPDIR":str(d),**({"LD_LIBRARY_PATH":os.environ["LD_LIBRARY_PATH"]} if "LD_LIBRARY_PATH" in os.environ else {})}
sp=SandboxSpec(command=(sys.executable,"-c",CODE),cwd=d,writable=(d,),stdout_fd=log,environment=env,gpu_index=0)
with LandlockSandbox().launch(sp) as p:
    p.wait(60)
print(os.getcwd(), os.pread(log,1<<20,0).decode()[-300:],flush=True)
