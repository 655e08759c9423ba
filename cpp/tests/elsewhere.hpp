// A function of another module, which calls back.
#pragma once

void call_from_elsewhere(void (*function)());
