/* Umbrella header: what the generated border module (cffi) sees of the C library. */
#ifndef PYVMM_H
#define PYVMM_H

#include "block/block.h"
#include "common/common.h"
#include "devices/device.h"
#include "engine/engine.h"
#include "io/board.h"
#include "translator/translator.h"

#endif
