"""The part of MuJoCo's Python interface that offdyn uses; the package's own types do not reach pyright."""

from typing import Any

from mujoco import rollout as rollout

__version__: str

class MjModel:
    nq: int
    nv: int
    nu: int
    opt: Any
    vis: Any
    def __getattr__(self, name: str) -> Any: ...

class MjData:
    time: float
    def __init__(self, model: MjModel) -> None: ...
    def __getattr__(self, name: str) -> Any: ...

class MjSpec:
    option: Any
    compiler: Any
    geoms: list[Any]
    bodies: list[Any]
    joints: list[Any]
    actuators: list[Any]
    @staticmethod
    def from_file(path: str) -> MjSpec: ...
    def compile(self) -> MjModel: ...
    def copy(self) -> MjSpec: ...
    def geom(self, name: str) -> Any: ...
    def joint(self, name: str) -> Any: ...
    def body(self, name: str) -> Any: ...

class mjtTexture:
    mjTEXTURE_2D: Any
    mjTEXTURE_SKYBOX: Any

class mjtGeom:
    mjGEOM_CAPSULE: Any
    mjGEOM_SPHERE: Any
    mjGEOM_PLANE: Any

class mjtJoint:
    mjJNT_HINGE: Any
    mjJNT_SLIDE: Any

class mjtTrn:
    mjTRN_JOINT: Any
    mjTRN_JOINTINPARENT: Any

class mjtGain:
    mjGAIN_FIXED: Any
    mjGAIN_AFFINE: Any

class mjtBias:
    mjBIAS_NONE: Any
    mjBIAS_AFFINE: Any

class mjtLimited:
    mjLIMITED_FALSE: Any
    mjLIMITED_TRUE: Any

class mjtInertiaFromGeom:
    mjINERTIAFROMGEOM_TRUE: Any
    mjINERTIAFROMGEOM_AUTO: Any

class mjtState:
    mjSTATE_FULLPHYSICS: Any
    mjSTATE_CTRL: Any

class mjtWarning:
    mjWARN_BADQPOS: Any
    mjWARN_BADQVEL: Any
    mjWARN_BADQACC: Any

class mjtDisableBit: ...

def get_mjcb_time() -> Any: ...
def set_mjcb_time(clock: Any) -> None: ...
def get_mju_user_warning() -> Any: ...
def set_mju_user_warning(handler: Any) -> None: ...
def mj_stateSize(model: MjModel, spec: int) -> int: ...
def mj_step(model: MjModel, data: MjData, nstep: int = ...) -> None: ...
def mj_copyData(dest: MjData, model: MjModel, src: MjData) -> MjData: ...
def mj_kinematics(model: MjModel, data: MjData) -> None: ...
def mj_collision(model: MjModel, data: MjData) -> None: ...
def mj_forward(model: MjModel, data: MjData) -> None: ...
def mju_quat2Mat(res: Any, quat: Any) -> None: ...
def mj_setConst(model: MjModel, data: MjData) -> None: ...
def mj_jacBodyCom(model: MjModel, data: MjData, jacp: Any, jacr: Any, body: int) -> None: ...
