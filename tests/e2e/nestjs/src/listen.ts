import 'reflect-metadata';
import { type Type, ValidationPipe } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';

export async function listen(module: Type): Promise<void> {
  const app = await NestFactory.create<NestExpressApplication>(module, { bodyParser: false, logger: ['error', 'warn'] });
  // Nest's own limit of 100 kB is little for a result: 3,072 floats with all their digits are 65 kB.
  app.useBodyParser('json', { limit: process.env.BODY_LIMIT ?? '10mb' });
  app.useGlobalPipes(new ValidationPipe({ whitelist: true, forbidNonWhitelisted: true }));
  await app.listen(process.env.PORT ?? 3000, process.env.HOST ?? '127.0.0.1');
}
