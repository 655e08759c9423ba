/* What kinds.c calls, should nobody replace it. */
void fill_double(double *number) { *number = -1.0; }
void fill_float(float *number) { *number = -1.0f; }
unsigned random_word(void *state) { return state != 0; }
double normal_scaled(void *state, double sd) { return -sd * (state == 0); }
double exponential_scaled(void *state, double mean) { return -mean * (state == 0); }
double uniform_between(void *state, double low, double high) { return -low - high * (state == 0); }
double gamma_scaled(void *state, double shape, double scale) { return -shape - scale * (state == 0); }
