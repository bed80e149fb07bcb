#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	long planks = argc > 1 ? strtol(argv[1], NULL, 10) : 0;

	if (planks <= 0) {
		fprintf(stderr, "usage: strakes PLANKS\n");
		return 2;
	}
	printf("c app: %ld planks a side, %ld strakes\n", planks, 2 * planks);
	return 0;
}
