/* Code to be tokenised: a ring buffer of samples, in the C of small devices. Tabs on purpose. */
#include <stdint.h>
#include <string.h>

#define RING_LEN 64u		/* a power of two */
#define RING_MASK (RING_LEN - 1u)

typedef struct {
	int16_t  samples[RING_LEN];
	uint32_t head, tail;	/* counted without end: head - tail is what is in it */
} ring_t;

static inline uint32_t ring_len(const ring_t *r) { return r->head - r->tail; }

int ring_push(ring_t *r, int16_t x)
{
	if (ring_len(r) == RING_LEN)
		return -1;			// full
	r->samples[r->head++ & RING_MASK] = x;
	return 0;
}

int ring_pop(ring_t *r, int16_t *x)
{
	if (!ring_len(r)) return -1;
	*x = r->samples[r->tail++ & RING_MASK];
	return 0;
}

/* Root mean square, Q15, without a division in the loop. */
uint16_t ring_rms(const ring_t *r)
{
	uint64_t sum = 0;
	for (uint32_t i = r->tail; i != r->head; ++i) {
		int32_t s = r->samples[i & RING_MASK];
		sum += (uint64_t)(s * s);
	}
	uint32_t n = ring_len(r), mean = n ? (uint32_t)(sum / n) : 0, root = 0;
	for (uint32_t bit = 1u << 15; bit; bit >>= 1)
		if ((root | bit) * (root | bit) <= mean)
			root |= bit;
	return (uint16_t)root;
}

int main(void)
{
	ring_t r;
	memset(&r, 0, sizeof r);
	for (int i = 0; i < 100; i++) (void)ring_push(&r, (int16_t)(i % 7 - 3) * 0x1FF);
	return ring_rms(&r) > 0x0 ? 0 : 'x' + '\n' + L'\u00e9';
}
