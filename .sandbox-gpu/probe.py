import os, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, os.getcwd())
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.sandbox.base import *
CODE = r"""
import os, time; t0=time.time()
import torch
t1=time.time()
x=torch.randn(4096,4096,device='cuda',dtype=torch.bfloat16)
y=x@x; torch.cuda.synchronize()
t2=time.time()
print('cuda', torch.cuda.device_count(), torch.cuda.get_device_name(), 'import', round(t1-t0,1), 'first matmul', round(t2-t1,1), flush=True)
p=torch.randn(1<<20).pin_memory(); p.cuda(non_blocking=True); torch.cuda.synchronize(); print('pinned ok')
try:
    f=torch.compile(lambda a: torch.nn.functional.relu(a*2+1).sum(-1)); print('compiled', f(x).shape, round(time.time()-t2,1), flush=True)
except Exception as e:
    print('compile failed', type(e).__name__, str(e)[-1500:])
for i in range(2):
    try: os.close(os.open(f'/dev/nvidia{i}', os.O_RDWR)); print('nvidia%d opens'%i)
    except OSError as e: print(e)
"""
NOGPU = r"""
import torch,os; print('without gpu:', torch.cuda.is_available())
try: os.close(os.open('/dev/nvidia0', os.O_RDWR)); print('OPENS')
except OSError as e: print(e)
"""
def go(s, code, gpu, env={}, extra=()):
    d=Path(tempfile.mkdtemp()); log=os.memfd_create('l')
    env={"PATH":os.environ["PATH"],"HOME":str(d),"TMPDIR":str(d),"TORCHINDUCTOR_CACHE_DIR":str(d/"c"),"TRITON_CACHE_DIR":str(d/"t"),**({"LD_LIBRARY_PATH":os.environ["LD_LIBRARY_PATH"]} if "LD_LIBRARY_PATH" in os.environ else {}),**env}
    sp=SandboxSpec(command=(sys.executable,"-c",code),cwd=d,writable=(d,*extra),stdout_fd=log,environment=env,gpu_index=gpu,limits=Limits(memory_mb=64000))
    t=time.time()
    with s.launch(sp) as p:
        p.wait(150)
        print(s.name, gpu, round(time.time()-t,1),'s', p.outcome)
    print(os.pread(log,1<<20,0).decode()[-2500:],flush=True)
for n in sys.argv[1:]:
    try: s=select_sandbox(n)
    except Exception as e: print(n, e); continue
    go(s,CODE,0); go(s,NOGPU,None)
    if n=="landlock":
        go(s,CODE,0,{"TORCHINDUCTOR_COMPILE_THREADS":"1"})
        go(s,CODE,0,extra=(Path("/dev/shm"),))
